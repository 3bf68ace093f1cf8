"""Folders that cannot be written, disks that fill up, kills and Ctrl-C: nothing is half-written."""

import ctypes
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.abuse.conftest import assert_whole
from tests.conftest import ROOT, mostly_long
from tests.processes import call, run_as_main, run_file

pytestmark = pytest.mark.slow

TOOLS = {
    "train": lambda c, w, image, out: ("train", c, "--work-dir", out),
    "test": lambda c, w, image, out: ("test", c, w, "--work-dir", out, "--out", f"{out}/all.pkl"),
    "fold": lambda c, w, image, out: ("fold", c, w, out),
    "convert": lambda c, w, image, out: ("convert_checkpoint", w, f"{out}/converted.pth"),
    "visualize": lambda c, w, image, out: (
        *("visualize", c, w, "--image", image, "--size", 64, "--out", out),
    ),
    "receptive_field": lambda c, w, image, out: (
        *("receptive_field", c, "--checkpoint", w, "--num-images", 1, "--size", 64, "--out", out),
    ),
    "demo": lambda c, w, image, out: ("demo", image, c, w, "--out", out),
}


@pytest.fixture
def image(shapes):
    return min((shapes / "val").iterdir())


@pytest.fixture
def source(tool, weights, tmp_path):
    """What the tool reads: convert_checkpoint takes the authors' names."""
    if tool != "convert":
        return weights
    state = {f"stages.0.{i}.dwconv.weight": torch.randn(64, 1, 7, 7) for i in range(99)}
    path = tmp_path / "authors.pth"
    torch.save(dict(model=state), path)
    return path


def assert_all_whole(folder):
    """Every file is complete, or has the name of a temporary one."""
    for path in folder.rglob("*"):
        if path.is_file() and (path.name == ".lock" or not path.name.startswith(".")):
            assert_whole(path)


@pytest.mark.parametrize("place", mostly_long(["file/out", "/proc/nowhere/out"], "file/out"))
@pytest.mark.parametrize("tool", mostly_long(TOOLS, "train", "fold", "visualize"))
def test_a_folder_that_cannot_be_made(tool, place, config, source, image, stops, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    said = stops(*TOOLS[tool](config, source, image, place))
    assert re.match(f"error: .*{Path(place).parent}.*: (Not a directory|No such file)", said), said
    assert (tmp_path / "file").read_text() == "not a folder"


def run_bound_by_permissions(command):
    """Run a tool without the capability by which root writes into read-only folders."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # Version 3, this process: capset(2).
    assert ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) == 0
    try:
        run_as_main(command)
    except SystemExit as stopped:
        print("stopped:", stopped)


@pytest.mark.parametrize("tool", mostly_long(TOOLS, "train", "test", "demo"))
def test_a_read_only_folder(tool, config, source, image, tmp_path):
    folder = tmp_path / "read only"
    folder.mkdir(mode=0o555)
    name, *arguments = TOOLS[tool](config, source, image, folder / "out")
    said = call(run_bound_by_permissions, [f"{ROOT}/tools/{name}.py", *map(str, arguments)])
    assert re.search(f"stopped: error: {folder}.*: Permission denied", said), said
    assert "Traceback" not in said
    assert not list(folder.iterdir())


def test_read_only_data_can_be_trained_on(config, shapes, tmp_path):
    data = shutil.copytree(shapes, tmp_path / "data")
    before = sorted(data.rglob("*"))
    for path in (data, *before):
        path.chmod(0o444 | (0o111 if path.is_dir() else 0))
    command = [f"{ROOT}/tools/train.py", str(config), "--data-root", str(data)]
    said = call(run_bound_by_permissions, [*command, "--work-dir", str(tmp_path / "out")])
    assert "stopped" not in said, said
    assert (tmp_path / "out" / "iter_2.pth").exists()
    assert sorted(data.rglob("*")) == before


@pytest.fixture
def full_disk():
    """No file may grow beyond so many bytes, as if the disk was full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(room):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))

    yield fill
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("tool", "room"),
    mostly_long(
        [
            # Less than what they write.
            *((tool, 100_000) for tool in ("train", "fold", "convert", "visualize")),
            *(("test", 50_000), ("demo", 5_000), ("receptive_field", 5_000)),
        ],
        ("train", 100_000),
        ("fold", 100_000),
        ("receptive_field", 5_000),
    ),
)
def test_a_full_disk(tool, room, config, source, image, stops, full_disk, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    old = out / {"train": "iter_1.pth", "convert": "converted.pth"}.get(tool, "old.pth")
    torch.save(dict(old=torch.ones(3)), old)
    before = old.read_bytes()
    full_disk(room)
    said = stops(*TOOLS[tool](config, source, image, out))
    assert said.startswith("error: "), said
    assert str(out) in said or "too large" in said
    assert old.read_bytes() == before
    assert_all_whole(out)
    assert not [p for p in out.rglob(".*") if p.name != ".lock"]


@pytest.mark.parametrize("kills", mostly_long([3, 12], 3))
@pytest.mark.parametrize(
    "tool",
    mostly_long(
        ["train", "test", "fold", "convert", "visualize", "demo"], "train", "test", "convert"
    ),
)
def test_kills_at_random_moments(tool, kills, config, source, image, tmp_path):
    out = tmp_path / "out"
    name, *arguments = TOOLS[tool](config, source, image, out)
    command = [str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
    environment = os.environ | dict(PYTHONPATH=str(ROOT))
    rng = random.Random(f"{tool} {kills}")
    duration, killed = 30.0, 0
    while killed < kills:
        start = time.monotonic()
        try:
            status, said = run_file(command, tmp_path, environment, rng.uniform(0, duration))
            assert status == 0, said[-3000:]
            duration = min(duration, time.monotonic() - start)
        except TimeoutError:
            killed += 1
        assert_all_whole(out)
    # What a killed one left behind is in nobody's way.
    status, said = run_file(command, tmp_path, environment)
    assert status == 0, said[-3000:]
    assert_all_whole(out)


def started(command, until, cwd):
    """A process that has written what is waited for."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=os.environ | dict(PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Ignored in what a shell runs in the background, and so in its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not until():
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.05)
    return process


def test_ctrl_c_while_training(config, tmp_path):
    out = tmp_path / "a work dir é"
    command = [ROOT / "tools/train.py", config, "--work-dir", out]
    command += ["--cfg-options", "train_cfg.max_iters=1000", "train_cfg.val_interval=1000"]
    process = started(command, lambda: (out / "iter_2.pth").exists(), tmp_path)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[0]
    assert process.returncode == 130
    assert said.rstrip().endswith("interrupted")
    assert f"--resume goes on from the last checkpoint in {out}" in said
    assert "Traceback" not in said
    assert_all_whole(out)
    kept = sorted(out.glob("iter_*.pth"))
    assert kept
    # Where one is cut short, the one before it is taken.
    newest = max(kept, key=lambda path: path.stat().st_mtime)
    (out / "last_checkpoint").write_text(str(newest))
    if len(kept) > 1:
        newest.write_bytes(newest.read_bytes()[:-1000])
    iterations = f"train_cfg.max_iters={int(newest.stem[5:]) + 1}"
    status, said = run_file(
        [*map(str, command[:4]), "--resume", "--cfg-options", iterations],
        tmp_path,
        os.environ | dict(PYTHONPATH=str(ROOT)),
    )
    assert status == 0, said[-3000:]
    assert len(kept) == 1 or f"{newest} is damaged: trying an older one" in said


def interrupted_at_the_end(command):
    """Run a tool with a Ctrl-C when its first file is written, but for its name."""

    def interrupt(*_):
        raise KeyboardInterrupt

    os.replace = interrupt
    with pytest.raises(SystemExit) as stopped:
        run_as_main(command)
    assert stopped.value.code == 130


@pytest.mark.parametrize(
    "tool",
    mostly_long(["fold", "convert", "visualize", "receptive_field", "demo"], "fold", "demo"),
)
def test_ctrl_c_while_writing(tool, config, source, image, tmp_path):
    out = tmp_path / "out"
    name, *arguments = TOOLS[tool](config, source, image, out)
    said = call(interrupted_at_the_end, [str(ROOT / f"tools/{name}.py"), *map(str, arguments)])
    assert "interrupted" in said.splitlines()
    assert "Traceback" not in said
    assert not [path for path in out.rglob("*") if path.is_file()]


def test_a_second_run_in_the_folder_is_refused(config, stops, tmp_path):
    out = tmp_path / "out"
    command = [ROOT / "tools/train.py", config, "--work-dir", out]
    command += ["--cfg-options", "train_cfg.max_iters=1000", "train_cfg.val_interval=1000"]
    process = started(command, lambda: (out / "iter_1.pth").exists(), tmp_path)
    try:
        said = stops("train", config, "--work-dir", out)
        assert f"process {process.pid} trains there" in said
    finally:
        process.kill()
        process.communicate()


def test_weights_of_a_run_that_diverged_do_not_fold(config, weights, stops, tmp_path):
    state = torch.load(weights, weights_only=False)
    state["state_dict"]["backbone.layer2.0.conv1.weight"].fill_(float("nan"))
    torch.save(state, tmp_path / "nan.pth")
    said = stops("fold", config, tmp_path / "nan.pth", tmp_path / "out")
    assert "gives NaN" in said
    assert not (tmp_path / "out").exists()
