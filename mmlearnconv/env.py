"""What a bug report should contain: ``python -m mmlearnconv.env`` prints it."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from .ops import extension
from .version import __version__

# The maintained continuation and the original share their import names.
_FAMILIES = {
    "mmengine": ("onedl-mmengine", "mmengine"),
    "mmcv": ("onedl-mmcv", "mmcv", "mmcv-lite"),
    "mmdet": ("onedl-mmdetection", "mmdet"),
    "mmseg": ("onedl-mmsegmentation", "mmsegmentation"),
    "mmpretrain": ("onedl-mmpretrain", "mmpretrain"),
}


def describe() -> dict[str, str]:
    """Versions, the family of the OpenMMLab packages, and what operations are compiled for."""
    found = {
        "mmlearnconv": __version__,
        "Python": f"{platform.python_version()} on {platform.platform()}",
        "PyTorch": torch.__version__,
        "CUDA": _cuda(),
        "operations": _operations(),
    }
    for name, distributions in _FAMILIES.items():
        installed = [f"{d} {v}" for d in distributions if (v := _version(d))]
        found[name] = ", ".join(installed) or "not installed"
    return found


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _cuda() -> str:
    if torch.cuda.is_available():
        return f"{torch.version.cuda}, {torch.cuda.get_device_name()}"
    return f"{torch.version.cuda}, no GPU found" if torch.version.cuda else "PyTorch without CUDA"


def _operations() -> str:
    devices = [d for d in ("cpu", "cuda") if extension.has_kernels_for(d)]
    return f"compiled for {', '.join(devices)}" if devices else "not compiled; PyTorch's are used"


if __name__ == "__main__":
    for name, value in describe().items():
        print(f"{name:12} {value}")
