"""Installs mmlearnconv: ``pip install -e . --no-build-isolation``."""

import os
import re
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup

root = Path(__file__).parent.resolve()
package = "mmlearnconv"
version = re.search(r'"(.+)"', (root / "mmlearnconv" / "version.py").read_text()).group(1)

# The two families of OpenMMLab packages share their import names: install one of them.
families = {
    "det": ["onedl-mmengine>=0.10.12", "onedl-mmcv>=2.3.6", "onedl-mmdetection>=3.5.1"],
    "seg": ["onedl-mmengine>=0.10.12", "onedl-mmcv>=2.3.6", "onedl-mmsegmentation>=1.4.2"],
    "openmmlab-det": ["mmengine>=0.10", "mmcv>=2.0", "mmdet>=3.0"],
    "openmmlab-seg": ["mmengine>=0.10", "mmcv>=2.0", "mmsegmentation>=1.0"],
}


def compiled() -> dict[str, Any]:
    """The extension, unless ``MMLEARNCONV_WITHOUT_OPS=1`` or there is no PyTorch to build with.

    With CUDA where PyTorch has it and finds its compiler, or ``FORCE_CUDA=1``.
    """
    if os.environ.get("MMLEARNCONV_WITHOUT_OPS") == "1":
        return {}
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError:
        print("PyTorch is not installed, or hidden by build isolation: no compiled operations")
        return {}
    forced = os.environ.get("FORCE_CUDA") == "1"
    cuda = forced or (torch.cuda.is_available() and cpp_extension.CUDA_HOME is not None)
    folder = root / package / "ops" / "csrc"
    sources = [*folder.glob("**/*.cpp"), *(folder.glob("cuda/*.cu") if cuda else ())]
    options = {"cxx": ["-O3", "-fopenmp", "-Wno-psabi"]}
    if cuda:
        options["nvcc"] = ["-O3", "--expt-relaxed-constexpr"]
    extension = (cpp_extension.CUDAExtension if cuda else cpp_extension.CppExtension)(
        f"{package}.ops._ext",
        sorted(path.relative_to(root).as_posix() for path in sources),
        extra_compile_args=options,
        extra_link_args=["-fopenmp"],
    )
    return dict(ext_modules=[extension], cmdclass=dict(build_ext=cpp_extension.BuildExtension))


def for_mim() -> list[str]:
    """Configs, tools and index under ``mmlearnconv/.mim``, where mim looks for them."""
    folder = root / package / ".mim"
    folder.mkdir(exist_ok=True)
    for name in ("configs", "tools", "model-index.yml"):
        link = folder / name
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(Path("..", "..", name))
    patterns = ("model-index.yml", "configs/**/*.py", "configs/*.yml", "tools/*")
    return [
        path.relative_to(root / package).as_posix()
        for pattern in patterns
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    ]


setup(
    name="mmlearnconv",
    version=version,
    description="Convolutions that learn where to look, for OpenMMLab detection and segmentation",
    long_description=(root / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["mmlearnconv", "mmlearnconv.*"]),
    package_data={package: for_mim()},
    install_requires=["torch>=2.6", "numpy"],
    extras_require=families,
    zip_safe=False,
    **compiled(),
)
