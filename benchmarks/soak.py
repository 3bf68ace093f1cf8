"""Hours of training with kills, and of inference: is anything lost, does memory grow?

python benchmarks/soak.py train [--iterations N] [--kill-every SECONDS] [--out DIR]
python benchmarks/soak.py infer [--hours H]

``train`` trains the quickstart's detector twice, side by side, with one thread each: undisturbed,
and killed (SIGKILL) about every so many seconds and resumed. It prints what differs at the end:
weights, optimizer and average precision should be equal to the last bit. ``infer`` runs the
detector on images of random sizes. Both print memory (RSS) and open files at the first and the last
tenth. In ``train`` the C library gives freed memory back at once, so that RSS is what is in use: it
would keep a heap in pieces, which grows towards the sum of all sizes ever needed.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "quickstart_mask_rcnn_dcls.py"
EVERY = 20  # iterations between checkpoints
SIZES = 64, 640
# glibc, malloc(3): blocks from 64 KiB on are mapped one by one.
GIVE_BACK = dict(MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="65536")


def usage(pid: int) -> tuple[float, int] | None:
    """Megabytes of memory and number of open files of a process; ``None`` if it ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None


def describe(samples: list[tuple[float, int]]) -> str:
    """Medians of the first and the last tenth."""
    tenth = max(1, len(samples) // 10)
    first, last = (
        [statistics.median(values) for values in zip(*part, strict=True)]
        for part in (samples[:tenth], samples[-tenth:])
    )
    return (
        f"memory {first[0]:.0f} MB at first, {last[0]:.0f} MB at last; "
        f"open files {first[1]:.0f} at first, {last[1]:.0f} at last"
    )


def write_config(folder: Path, iterations: int) -> Path:
    """The quickstart's config for an exact restart."""
    path = folder / "soak.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    loader = dict(num_workers=0, persistent_workers=False)
    path.write_text(
        f"_base_ = {str(CONFIG)!r}\n"
        f"train_cfg = dict(max_iters={iterations}, val_interval={iterations})\n"
        "param_scheduler = _base_.param_scheduler\n"
        f"param_scheduler[1].end = {iterations}\n"
        f"default_hooks = dict(checkpoint=dict(interval={EVERY}))\n"
        "custom_hooks = [dict(type='ReseedHook')]\n"
        "randomness = dict(seed=0)\n"
        f"train_dataloader = val_dataloader = dict({loader})\n"
    )
    return path


def start(config: Path, folder: Path) -> subprocess.Popen:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "console.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, ROOT / "tools/train.py", config, "--work-dir", folder, "--resume"],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | GIVE_BACK | dict(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT)),
        )


def train(out: Path, iterations: int, kill_every: float) -> None:
    """Train twice, and say what differs."""
    calm, disturbed = out / "undisturbed", out / "killed"
    config = write_config(out, iterations)
    runs = {folder: start(config, folder) for folder in (calm, disturbed)}
    samples: dict[Path, list[tuple[float, int]]] = {calm: [], disturbed: []}
    rng, kills = random.Random(0), 0
    begun = time.monotonic()
    until = begun + rng.uniform(0.5, 1.5) * kill_every
    while any(run.poll() is None for run in runs.values()):
        time.sleep(5)
        for folder, run in runs.items():
            if run.poll() is None and (used := usage(run.pid)):
                samples[folder].append(used)
        # A run killed while it is tested at the end is not tested again.
        trained = (disturbed / f"iter_{iterations}.pth").exists()
        if time.monotonic() > until and runs[disturbed].poll() is None and not trained:
            runs[disturbed].send_signal(signal.SIGKILL)
            runs[disturbed].wait()
            kills += 1
            runs[disturbed] = start(config, disturbed)
            until = time.monotonic() + rng.uniform(0.5, 1.5) * kill_every
    for folder, run in runs.items():
        if run.returncode:
            sys.exit(f"error: {folder} ended with {run.returncode}; see {folder}/console.log")
    print(f"{(time.monotonic() - begun) / 3600:.2f} hours, {iterations} iterations, {kills} kills")
    for folder, used in samples.items():
        print(f"{folder.name}: {describe(used)}")
    results = [result(folder, iterations) for folder in (calm, disturbed)]
    same = {
        name: equal(*(saved[name] for saved, _ in results)) for name in ("state_dict", "optimizer")
    }
    for name, is_same in same.items():
        print(f"{name}: {'equal to the last bit' if is_same else 'DIFFERENT'}")
    for saved, measured in results:
        print(f"iteration {saved['meta']['iter']}: {measured}")
    if not all(same.values()) or results[0][1] != results[1][1]:
        sys.exit("error: the killed run does not end as the undisturbed one")


def result(folder: Path, iterations: int) -> tuple[dict[str, Any], dict[str, float]]:
    """The last checkpoint, and what was measured at the end."""
    saved = torch.load(folder / f"iter_{iterations}.pth", weights_only=False)
    newest = max(folder.glob("*/vis_data/scalars.json"))
    measured = json.loads(newest.read_text().splitlines()[-1])
    return saved, {name: value for name, value in measured.items() if name.endswith("mAP")}


def equal(one: Any, other: Any) -> bool:
    """Whether two nested values have the same bits."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def infer(hours: float) -> None:
    """Run the detector on noise of random sizes."""
    from mmdet.apis import inference_detector, init_detector

    torch.set_num_threads(1)
    model = init_detector(str(CONFIG), device="cpu")
    rng, end = random.Random(0), time.monotonic() + 3600 * hours
    samples, count = [], 0
    while time.monotonic() < end:
        height, width = (rng.randint(*SIZES) for _ in range(2))
        inference_detector(model, torch.randint(256, (height, width, 3)).byte().numpy())
        count += 1
        if count % 10 == 0:
            samples.append(usage(os.getpid()))
    print(f"{count} images of {SIZES[0]} to {SIZES[1]} pixels in {hours:g} hours")
    print(describe(samples))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["train", "infer"])
    parser.add_argument("--iterations", type=int, default=6000)
    parser.add_argument("--kill-every", type=float, default=240)
    parser.add_argument("--hours", type=float, default=1)
    parser.add_argument("--out", type=Path, help="default: a temporary folder")
    args = parser.parse_args()
    if args.what == "infer":
        infer(args.hours)
    elif args.out:
        train(args.out, args.iterations, args.kill_every)
    else:
        with tempfile.TemporaryDirectory() as folder:
            train(Path(folder), args.iterations, args.kill_every)


if __name__ == "__main__":
    main()
