"""Classifiers' configs as they are, on data laid out as ImageNet's and CIFAR's, with few images."""

import os
import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image

from tests import libraries
from tests.conftest import ROOT, mostly_long
from tests.processes import run_file
from tests.tools.test_command_lines import ONE_PROCESS

pytestmark = pytest.mark.slow

IMAGES = 8
FEW = [
    "train_cfg.max_epochs=1",
    f"train_dataloader.batch_size={IMAGES // 2}",
    "default_hooks.logger.interval=1",
    *ONE_PROCESS,
]
# mmpretrain compares the files' checksums with those of the real ones.
WITHOUT_CHECKSUMS = """
from mmpretrain.datasets import CIFAR10, CIFAR100

for kind in (CIFAR10, CIFAR100):
    kind.train_list = [[name, None] for name, _ in kind.train_list]
    kind.test_list = [[name, None] for name, _ in kind.test_list]
    kind.meta = dict(kind.meta, md5=None)
"""


def imagenet(root, flat):
    """1000 folders of classes; of validation images also none, but a list, as many have them."""
    rng = np.random.default_rng(0)
    names = [f"n{number:08d}" for number in range(1000)]
    listed = []
    for split in ("train", "val"):
        for name in names:
            (root / split / name).mkdir(parents=True)
        for number in range(IMAGES):
            # Of many sizes, and one in grey.
            size = (rng.integers(40, 300), rng.integers(40, 300), 3)[: 2 + (number > 0)]
            pixels = rng.integers(0, 256, size, np.uint8)
            file = f"{names[7 * number]}/{number}.JPEG"
            Image.fromarray(pixels).save(root / split / file)
            listed.append(f"{file} {7 * number}")
    if flat:
        (root / "meta").mkdir()
        (root / "meta" / "val.txt").write_text("\n".join(listed[IMAGES:]))


def cifar(root, classes):
    rng = np.random.default_rng(0)
    folder, key, files = {
        10: ("cifar-10-batches-py", "labels", [*(f"data_batch_{n}" for n in range(1, 6))]),
        100: ("cifar-100-python", "fine_labels", ["train"]),
    }[classes]
    (root / folder).mkdir(parents=True)
    test, meta = ("test_batch", "batches.meta") if classes == 10 else ("test", "meta")
    for file in (*files, test):
        data = rng.integers(0, 256, (IMAGES, 3 * 32 * 32), np.uint8)
        labels = rng.integers(0, classes, IMAGES).tolist()
        (root / folder / file).write_bytes(pickle.dumps({"data": data, key: labels}))
    names = [f"class {n}" for n in range(classes)]
    keys = ("label_names", "fine_label_names")
    (root / folder / meta).write_bytes(pickle.dumps(dict.fromkeys(keys, names)))


def run(*command):
    environment = os.environ | dict(PYTHONPATH=str(ROOT))
    status, output = run_file(list(map(str, command)), ROOT, environment, with_libraries=True)
    assert status == 0, output[-5000:]
    return output


def trains_and_tests(config, root, work_dir, *options):
    common = "--data-root", root, "--work-dir", work_dir, "--cfg-options"
    run("tools/train.py", config, *common, *FEW, *options)
    checkpoint = work_dir / "epoch_1.pth"
    known = torch.load(checkpoint, weights_only=False)
    assert known["message_hub"]["runtime_info"]["iter"] > 0
    said = run("tools/test.py", config, checkpoint, *common, *ONE_PROCESS, *options)
    top1 = float(re.search(r"accuracy/top1: ([\d.]+)", said)[1])
    # So many images were tested.
    assert top1 == pytest.approx(round(top1 * IMAGES / 100) * 100 / IMAGES, abs=1e-3)


@pytest.mark.parametrize(
    ("config", "flat"),
    mostly_long(
        [
            ("dke/alexnet_dke_in1k", False),
            ("dk/resnet50dw_dk_local_in1k", True),
            ("dcls/convnext_t_dcls_in1k", False),
            ("dcls/resnet50_dcls_in1k", True),
            ("coc/resnet50_coc_orth_in1k", False),
            ("drconv/shufflenetv2_05_drconv_in1k", True),
            ("drconv/mobilenetv2_drconv_240e_in1k", False),
        ],
        ("drconv/shufflenetv2_05_drconv_in1k", True),
    ),
)
def test_a_recipe_of_imagenet(config, flat, tmp_path):
    libraries.need()
    imagenet(tmp_path / "imagenet", flat)
    options = []
    if "convnext" in config:
        # Its warm-up takes 20 epochs.
        options = ["param_scheduler.0.end=1", "param_scheduler.1.begin=0"]
    trains_and_tests(f"configs/{config}.py", tmp_path / "imagenet", tmp_path / "work", *options)


@pytest.mark.parametrize(
    ("config", "classes"),
    mostly_long(
        [(f"{net}_dke_cifar{n}", n) for net in ("alexnet", "resnet18") for n in (10, 100)],
        ("resnet18_dke_cifar10", 10),
    ),
)
def test_a_recipe_of_cifar(config, classes, tmp_path):
    libraries.need()
    root = tmp_path / f"cifar{classes}"
    cifar(root, classes)
    (tmp_path / "without_checksums.py").write_text(WITHOUT_CHECKSUMS)
    unchecked = tmp_path / "unchecked.py"
    base = str(ROOT / "configs" / "dke" / f"{config}.py")
    imports = dict(imports=["mmlearnconv", "without_checksums"], allow_failed_imports=False)
    unchecked.write_text(
        f"_base_ = {base!r}\n"
        f"__import__('sys').path.append({str(tmp_path)!r})\n"
        f"custom_imports = {imports}\n"
    )
    trains_and_tests(unchecked, root, tmp_path / "work")
