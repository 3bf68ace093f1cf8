"""Where a run goes on, and whom it shares its folder with."""

import errno
import os
import signal
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config

from mmlearnconv import cli
from mmlearnconv.cli.run import FolderInUseError, alone_in
from mmlearnconv.engine import CheckpointError, newest_checkpoint
from tests.conftest import ROOT


def save(folder, *names):
    for age, name in enumerate(reversed(names)):
        path = folder / name
        torch.save(dict(state_dict={}), path)
        os.utime(path, (1e9 - age, 1e9 - age))
    (folder / "last_checkpoint").write_text(f"/moved/{names[-1]}")


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def test_the_newest_whole_checkpoint(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    names = [f"iter_{i}.pth" for i in (8, 9, 10)]
    save(tmp_path, *names)
    (tmp_path / "best_coco_bbox_mAP_iter_9.pth").write_bytes(b"")
    assert newest_checkpoint(tmp_path).name == "iter_10.pth"
    # What last_checkpoint names comes first, wherever the folder is now.
    (tmp_path / "last_checkpoint").write_text("work_dirs/before/iter_9.pth\n")
    assert newest_checkpoint(tmp_path).name == "iter_9.pth"
    cut(tmp_path / "iter_9.pth")
    assert newest_checkpoint(tmp_path).name == "iter_10.pth"
    for pointer in ("", "iter_11.pth", "\x00"):
        (tmp_path / "last_checkpoint").write_text(pointer)
        cut(tmp_path / "iter_10.pth")
        assert newest_checkpoint(tmp_path).name == "iter_8.pth"
    cut(tmp_path / "iter_8.pth")
    with pytest.raises(CheckpointError, match=r"none of iter_10.pth, iter_8.pth, .* is whole"):
        newest_checkpoint(tmp_path)


def test_a_first_start_keeps_load_from(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path), load_from="plain.pth"))
    cli.use_resume(cfg, "auto")
    assert (cfg.resume, cfg.load_from) == (False, "plain.pth")
    save(tmp_path, "epoch_1.pth", "epoch_2.pth")
    cli.use_resume(cfg, "auto")
    assert (cfg.resume, cfg.load_from) == (True, str(tmp_path / "epoch_2.pth"))
    cli.use_resume(cfg, "other.pth")
    assert (cfg.resume, cfg.load_from) == (True, "other.pth")


YAPF = """
import glob, os, sys, time
import yapf
from mmlearnconv.cli.run import import_yapf
(path,) = glob.glob(os.environ["XDG_CACHE_HOME"] + "/YAPF/*/PatternGrammar*.pickle")
whole = open(path, "rb").read()
for name in [name for name in sys.modules if name.startswith("yapf")]:
    del sys.modules[name]
open(path, "wb").close()
if sys.argv[1] == "in time":
    time.sleep = lambda _: open(path, "wb").write(whole)
import_yapf()
import yapf
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["in time", "never"])
def test_yapf_s_cache_that_another_process_writes(end, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", YAPF, end],
        cwd=ROOT,
        env=os.environ | dict(PYTHONPATH=str(ROOT), XDG_CACHE_HOME=str(tmp_path)),
        capture_output=True,
        text=True,
    )
    if end == "in time":
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 1
        assert f"error: {tmp_path}/YAPF: the cache of YAPF is damaged" in done.stderr
        assert "Traceback" not in done.stderr


HOLD = """
import sys, time
from mmlearnconv.cli.run import alone_in
with alone_in(sys.argv[1]):
    print("in", flush=True)
    time.sleep(600)
"""


def test_two_runs_do_not_share_a_folder(tmp_path):
    folder = tmp_path / "work dir"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | dict(PYTHONPATH=str(ROOT)),
    )
    try:
        assert other.stdout.readline() == b"in\n"
        with (
            pytest.raises(FolderInUseError, match=f"process {other.pid} trains there"),
            alone_in(folder),
        ):
            pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    # A kill leaves nothing that a restart would have to remove.
    with alone_in(folder):
        pass


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", refuse)
    with alone_in(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
