import argparse
import pickle
import random
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import _load_checkpoint

from mmlearnconv.engine import CheckpointError, enforce_weights_only, load_checkpoint
from mmlearnconv.files import atomic_write


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_what_mmengine_saves_loads(tmp_path):
    history = HistoryBuffer([1.0, 3.0], [1, 1])
    saved = dict(
        state_dict=dict(weight=torch.ones(2)),
        message_hub=dict(log_scalars=dict(loss=history), resumed_keys={"loss": True}),
        meta=dict(
            epoch=1, dataset_meta=dict(classes=("a",), palette=[(1, 2, 3)]), seed=np.int64(3)
        ),
        optimizer=dict(state={0: dict(step=torch.ones(()))}, param_groups=[dict(lr=np.float64(1))]),
    )
    torch.save(saved, tmp_path / "epoch_1.pth")
    loaded = load_checkpoint(tmp_path / "epoch_1.pth")
    assert loaded["message_hub"]["log_scalars"]["loss"].mean(2) == 2
    assert loaded["meta"] == saved["meta"]


def test_arguments_of_authors_scripts_load(tmp_path):
    """DCLS's and ConvNeXt's training scripts save theirs beside the weights."""
    saved = dict(model=dict(weight=torch.ones(2)), args=argparse.Namespace(lr=4e-3, model="t"))
    torch.save(saved, tmp_path / "checkpoint.pth")
    loaded = load_checkpoint(tmp_path / "checkpoint.pth")
    assert loaded["args"].lr == 4e-3
    assert torch.equal(loaded["state_dict"]["weight"], torch.ones(2))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_payload_is_refused_and_not_run(legacy, tmp_path, monkeypatch):
    enforce_weights_only()
    path, mark = tmp_path / "bad.pth", tmp_path / "ran"
    content = dict(state_dict=dict(weight=torch.ones(2)), extra=Payload(mark))
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    for load in (load_checkpoint, _load_checkpoint):
        with pytest.raises(
            CheckpointError, match=r"bad.pth is refused: loading it would run .*open"
        ):
            load(str(path))
    # Loaders of other schemes call torch.load themselves.
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=False)
    assert not mark.exists()
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    load_checkpoint(path, trust=True)
    assert mark.exists()


def test_getattr_is_only_that_of_the_history(tmp_path):
    class Reach:
        def __reduce__(self):
            return getattr, (HistoryBuffer, "__init__")

    torch.save(dict(x=Reach()), tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="refused"):
        load_checkpoint(tmp_path / "bad.pth")


def test_a_truncated_file_is_one_sentence(tmp_path):
    path = tmp_path / "cut.pth"
    torch.save(dict(state_dict=dict(weight=torch.ones(1000))), path)
    content = path.read_bytes()
    rng = random.Random(0)
    fixed = [0, 1, 100, len(content) // 2, int(0.99 * len(content)), len(content) - 1]
    for kept in [*fixed, *(rng.randrange(len(content)) for _ in range(100))]:
        path.write_bytes(content[:kept])
        with pytest.raises(CheckpointError, match=r"cut.pth is .*damaged") as error:
            load_checkpoint(path)
        assert "\n" not in str(error.value)


def test_changed_weights_are_seen(tmp_path):
    path = tmp_path / "changed.pth"
    torch.save(dict(state_dict=dict(weight=torch.ones(1000))), path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.ones(8).numpy().tobytes()) + 1] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"changed.pth is damaged \(.*data/0: the checksum"):
        load_checkpoint(path)
    changed = load_checkpoint(path, trust=True)["state_dict"]["weight"]
    assert sum(changed != 1) == 1


def test_files_of_older_formats_load(tmp_path):
    path = tmp_path / "old.pth"
    torch.save(dict(state_dict=dict(w=torch.ones(3))), path, _use_new_zipfile_serialization=False)
    assert torch.equal(load_checkpoint(path)["state_dict"]["w"], torch.ones(3))


def test_a_plain_pickle_is_refused(tmp_path):
    path, mark = tmp_path / "plain.pth", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Payload(mark)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(CheckpointError, match="refused"):
            load_checkpoint(path)
    assert not mark.exists()


def test_what_is_missing_or_no_dictionary_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"none.pth does not exist"):
        load_checkpoint(tmp_path / "none.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(CheckpointError, match="holds a Tensor, not a dictionary"):
        load_checkpoint(tmp_path / "tensor.pth")


def test_files_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "weights.pth"
    with atomic_write(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text(str(1 / 0))
    assert [p.name for p in path.parent.iterdir()] == ["weights.pth"]
    assert path.read_text() == "whole"


def test_a_kill_leaves_the_old_file(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_text("old")
    code = (
        "import os, signal\n"
        "from mmlearnconv.files import atomic_write\n"
        f"with atomic_write({str(path)!r}) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
