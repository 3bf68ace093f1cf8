"""Installs mmlearnconv: ``pip install -e . --no-build-isolation``."""

import os
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup

root = Path(__file__).parent.resolve()
package = "mmlearnconv"


def compiled() -> dict[str, Any]:
    """Arguments of ``setup`` that build the compiled operations.

    Empty if ``MMLEARNCONV_WITHOUT_OPS=1`` or PyTorch cannot be imported. CUDA kernels are built if
    PyTorch sees a GPU and finds the CUDA toolkit, or if ``FORCE_CUDA=1``.
    """
    if os.environ.get("MMLEARNCONV_WITHOUT_OPS") == "1":
        return {}
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError:
        print("PyTorch is not installed, or build isolation hides it: the compiled operations are")
        print("not built. To build them, use pip install --no-build-isolation ...")
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
    """Link configs, tools and model index into ``mmlearnconv/.mim``, where mim looks for them.

    Returns:
        list[str]: paths of their files, relative to the package.
    """
    folder = root / package / ".mim"
    folder.mkdir(exist_ok=True)
    for name in ("configs", "tools", "model-index.yml"):
        link = folder / name
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(Path("..", "..", name))
    patterns = ("model-index.yml", "configs/**/*.py", "configs/**/*.yml", "tools/*")
    return [
        path.relative_to(root / package).as_posix()
        for pattern in patterns
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    ]


setup(
    packages=find_packages(include=["mmlearnconv", "mmlearnconv.*"]),
    package_data={package: [*for_mim(), "py.typed"]},
    zip_safe=False,
    **compiled(),
)
