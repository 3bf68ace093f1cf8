"""timm, torchvision and mmpretrain, for processes that use them."""

import os
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(sys.prefix) / "libraries"
# What torchvision gives meta kernels to at its import.
_OPERATORS = ["nms", "qnms", "qroi_align", "deform_conv2d", "_deform_conv2d_backward"]
for _pooling in ("roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool"):
    _OPERATORS += [_pooling, f"_{_pooling}_backward"]


def need() -> None:
    """Skip the test where they are not installed; CI must have them."""
    if not FOLDER.is_dir() and os.environ.get("CI") != "true":
        pytest.skip(f"{FOLDER} is absent; tools/setup_env.sh makes it")


def find() -> None:
    """Let this process import them; it should be one that ends with the test."""
    sys.path.append(str(FOLDER))
    declarations = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        declarations.define(f"{name}(Tensor x) -> Tensor")
    # It undeclares them when it is deleted.
    find.declarations = declarations
