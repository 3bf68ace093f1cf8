"""Folders that cannot be written, disks that fill up, kills and Ctrl-C: nothing is half-written."""

import os
import random
import re
import resource
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from zipfile import is_zipfile

import pytest
import torch
from PIL import Image

from tests.conftest import ROOT, mostly_long
from tests.processes import call, run_file

pytestmark = pytest.mark.slow

TOOLS = {
    "train": lambda c, w, image, out: ("train", c, "--work-dir", out),
    "test": lambda c, w, image, out: ("test", c, w, "--work-dir", out),
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


def assert_whole(folder):
    """Every file is complete, or has the name of a temporary one."""
    for path in folder.rglob("*"):
        if path.name.startswith("."):
            continue
        if path.suffix == ".pth":
            assert is_zipfile(path), path
            torch.load(path, weights_only=False)
        elif path.suffix in (".png", ".jpg"):
            Image.open(path).load()
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>"), path


@pytest.mark.parametrize("place", mostly_long(["file/out", "/proc/nowhere/out"], "file/out"))
@pytest.mark.parametrize("tool", TOOLS)
def test_a_folder_that_cannot_be_made(tool, place, config, source, image, stops, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    said = stops(*TOOLS[tool](config, source, image, place))
    assert re.match(f"error: .*{Path(place).parent}.*: (Not a directory|No such file)", said), said
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.fixture
def full_disk():
    """No file may grow beyond 100 kB, as if the disk was full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))

    yield fill
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("tool", ["train", "fold", "convert", "visualize"])
def test_a_full_disk(tool, config, source, image, stops, full_disk, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    old = out / {"train": "iter_1.pth", "convert": "converted.pth"}.get(tool, "old.pth")
    torch.save(dict(old=torch.ones(3)), old)
    before = old.read_bytes()
    full_disk()
    said = stops(*TOOLS[tool](config, source, image, out))
    assert said.startswith("error: "), said
    assert str(out) in said or "too large" in said
    assert old.read_bytes() == before
    assert_whole(out)
    assert not [p for p in out.rglob(".*") if p.name != ".lock"]


@pytest.mark.parametrize("seed", mostly_long(range(4), 1))
@pytest.mark.parametrize("tool", ["train", "fold", "convert", "visualize", "demo"])
def test_a_kill_at_a_random_moment(tool, seed, config, source, image, tmp_path):
    out = tmp_path / "out"
    name, *arguments = TOOLS[tool](config, source, image, out)
    command = [str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
    environment = os.environ | dict(PYTHONPATH=str(ROOT))
    start = time.monotonic()
    if seed == 0:
        status, said = run_file(command, tmp_path, environment)
        assert status == 0, said
    else:
        delay = random.Random(f"{tool} {seed}").uniform(1, 6)
        try:
            run_file(command, tmp_path, environment, timeout=delay)
        except TimeoutError:
            assert time.monotonic() - start >= delay
    assert_whole(out)


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
    assert_whole(out)
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
    sys.argv = command
    sys.path.insert(0, str(ROOT))
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(command[0], run_name="__main__")
    assert stopped.value.code == 130


@pytest.mark.parametrize("tool", ["fold", "convert", "visualize", "receptive_field", "demo"])
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
