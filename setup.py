"""Installs mmlearnconv: ``pip install -e . --no-build-isolation``."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup

root = Path(__file__).parent.resolve()
package = "mmlearnconv"


def compiled() -> dict[str, Any]:
    """Arguments of ``setup`` that build the compiled operations.

    Empty if ``MMLEARNCONV_WITHOUT_OPS=1`` or PyTorch cannot be imported.
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
    cuda = builds_cuda(torch, cpp_extension)
    folder = root / package / "ops" / "csrc"
    sources = [*folder.glob("**/*.cpp"), *(folder.glob("cuda/*.cu") if cuda else ())]
    # Python's own flags ask for debug information, which takes a quarter more time.
    options = {"cxx": ["-O3", "-g0", "-fopenmp", "-Wno-psabi"]}
    if cuda:
        options["nvcc"] = ["-O3", "--expt-relaxed-constexpr"]
    extension = (cpp_extension.CUDAExtension if cuda else cpp_extension.CppExtension)(
        f"{package}.ops._ext",
        sorted(path.relative_to(root).as_posix() for path in sources),
        extra_compile_args=options,
        extra_link_args=["-fopenmp"],
    )
    return dict(ext_modules=[extension], cmdclass=dict(build_ext=cpp_extension.BuildExtension))


def builds_cuda(torch: Any, cpp_extension: Any) -> bool:
    """Whether to build for CUDA: where PyTorch sees a GPU, or ``FORCE_CUDA=1``, with a fit nvcc.

    Raises:
        SystemExit: ``FORCE_CUDA=1``, and nvcc is missing or not of PyTorch's major version.
    """
    forced = os.environ.get("FORCE_CUDA") == "1"
    if not forced and not torch.cuda.is_available():
        return False
    ours = torch.version.cuda
    nvcc = Path(cpp_extension.CUDA_HOME or "", "bin", "nvcc")
    if ours is None:
        missing = "this PyTorch was built without CUDA: install one with it"
    elif cpp_extension.CUDA_HOME is None or not nvcc.is_file():
        missing = f"there is no nvcc: install CUDA {ours}, or set CUDA_HOME to its folder"
    else:
        said = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True).stdout
        found = re.search(r"release (\d+)\.(\d+)", said)
        if found is not None and found.group(1) == ours.split(".")[0]:
            if not torch.cuda.is_available():
                # PyTorch would ask the GPU.
                os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;8.6;8.9;9.0+PTX")
            return True
        version = f"{found.group(1)}.{found.group(2)}" if found else "unknown"
        missing = f"{nvcc} is of CUDA {version}, PyTorch of CUDA {ours}: set CUDA_HOME"
    if forced:
        raise SystemExit(f"FORCE_CUDA=1, but {missing}")
    print(f"No CUDA kernels are built, since {missing}")
    return False


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
    patterns = "model-index.yml", *(f"configs/**/*.{end}" for end in ("py", "yml", "md")), "tools/*"
    return [
        path.relative_to(root / package).as_posix()
        for pattern in patterns
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    ]


setup(
    packages=find_packages(include=["mmlearnconv", "mmlearnconv.*"]),
    package_data={package: [*for_mim(), "py.typed", "visualization/page.html"]},
    zip_safe=False,
    **compiled(),
)
