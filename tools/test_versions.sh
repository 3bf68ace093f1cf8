#!/usr/bin/env bash
# Tests of operations and layers on other versions of PyTorch and Python, on a machine without a GPU:
#     [BASE_PYTHON=python3.13] bash tools/test_versions.sh [VERSION ...]
# The default is the oldest and the newest PyTorch that README names, on python3.
# Each gets an environment below ~/.cache/mmlearnconv/versions, with a copy of this tree and its build.
# The package index has only wheels for CUDA, whose libraries take gigabytes. They are left out, and one
# small library replaces them, whose functions only report that there is no GPU. This needs gcc and
# binutils; each version takes 3 GB of disk and 10 minutes on 2 cores.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/mmlearnconv/versions"

# step WHAT COMMAND...: where it fails, say what failed and how.
step() {
    local what="$1"
    shift
    printf '[%4d s] %s\n' "$SECONDS" "$what"
    if ! "$@" >"$FOLDER/step.log" 2>&1; then
        tail -n 25 "$FOLDER/step.log" >&2
        echo "test_versions.sh failed while: $what; all of its output is in $FOLDER/step.log" >&2
        exit 1
    fi
}

pinned() { grep -E "^($1)==" "$ROOT/requirements.txt"; }

# CUDA's packages, and Triton, which compiles for GPUs only, are left out.
install_needs() {
    "$PYTHON" - >"$FOLDER/needs.txt" <<'PY'
from importlib.metadata import requires

for line in requires("torch"):
    if not line.startswith(("nvidia-", "cuda-", "triton")) and "extra ==" not in line:
        print(line)
PY
    "$PYTHON" -m pip install -q --no-compile -r "$FOLDER/needs.txt"
    # shellcheck disable=SC2046
    "$PYTHON" -m pip install -q --no-compile --no-deps $(pinned 'setuptools|wheel|ninja|numpy|psutil|packaging|addict|termcolor|rich|markdown-it-py|mdurl|pygments|pyyaml|yapf|platformdirs|matplotlib|contourpy|cycler|fonttools|kiwisolver|pillow|pyparsing|python-dateutil|six|opencv-python-headless|onedl-mmengine|scipy|dcls|nvidia-cuda-nvdisasm|hypothesis|sortedcontainers|pytest|pytest-xdist|execnet') pluggy iniconfig
    # Isolated, its build finds no PyTorch and leaves its operations out: not a wheel for the cache.
    "$PYTHON" -m pip install -q --no-deps --no-cache-dir --no-binary onedl-mmcv "$(pinned onedl-mmcv)"
}

stand_in_for_cuda() {
    "$PYTHON" - <<'PY'
import re
import subprocess
import sysconfig
from collections import defaultdict
from pathlib import Path


def output(*command):
    return subprocess.run(map(str, command), check=True, capture_output=True, text=True).stdout


folder = Path(sysconfig.get_paths()["platlib"], "torch/lib")
# Not libcaffe2_nvrtc, which needs the driver and is opened with a GPU only.
own = [*folder.glob("libtorch*.so"), *folder.glob("libc10*.so")]
vendor = "lib(?:cu|nccl|nv)"
names = set(re.findall(rf"NEEDED.*\[({vendor}.*)\]", output("readelf", "-dW", *own)))
if not names:
    raise SystemExit  # PyTorch for CPUs

# Python opens libraries with RTLD_NOW: every function must be there, in the version that is asked
# for, as a rule the library's name. NCCL's, cuFile's and cuSPARSELt's have none.
defined = set(re.findall(r" [A-Z] (\w+)", output("nm", "-D", "--defined-only", *own)))
undefined = output("nm", "-D", "--undefined-only", *own)
versions = defaultdict(set)
for name, version in re.findall(r" U (\w+)(?:@(\S+))?", undefined):
    unversioned = not version and re.match("cu|nccl|nv", name) and name not in defined
    if unversioned or re.match(f"{vendor}|NVSHMEM", version):
        versions[version].add(name)

code, script, library = (folder / f"libno_cuda.{end}" for end in ("c", "map", "so"))
with code.open("w") as file:
    for name in sorted(set().union(*versions.values())):
        # Functions like cudaGetErrorString return a text; 100 is cudaErrorNoDevice.
        value = '"no GPU"' if name.endswith("String") else "(char *)100"
        print(f"const char *{name}() {{ return {value}; }}", file=file)
versions.pop("", None)
script.write_text(
    "".join(f"{version} {{ {'; '.join(sorted(each))}; }};\n" for version, each in versions.items())
)
output("gcc", "-shared", "-fPIC", code, f"-Wl,--version-script={script}", "-o", library)
# Under all names: the loader sees that it is one file and loads it once.
for name in names:
    folder.joinpath(name).unlink(missing_ok=True)
    folder.joinpath(name).symlink_to(library.name)
PY
}

copy_tree() {
    rm -rf "$FOLDER/tree"
    mkdir -p "$FOLDER/tree"
    (cd "$ROOT" && git ls-files -z | tar --null -T - -c) | tar -x -C "$FOLDER/tree"
}

failed=0
[ $# -gt 0 ] || set -- 2.6.0 2.15.0
BASE_PYTHON="${BASE_PYTHON:-python3}"
language="$("$BASE_PYTHON" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')"
for version in "$@"; do
    FOLDER="$CACHE/$language-torch-$version"
    PYTHON="$FOLDER/venv/bin/python"
    mkdir -p "$FOLDER"
    if [ ! -f "$FOLDER/ready" ]; then
        step "making $FOLDER/venv" "$BASE_PYTHON" -m venv --clear "$FOLDER/venv"
        step "installing torch $version without CUDA's packages" \
            "$PYTHON" -m pip install -q --no-deps --no-compile "torch==$version"
        step "installing what it and the tests need" install_needs
        step "making the stand-in for CUDA's libraries" stand_in_for_cuda
        step "importing PyTorch" "$PYTHON" -c \
            "import torch; assert not torch.cuda.is_available(); torch.ones(3, 3) @ torch.ones(3, 3)"
        touch "$FOLDER/ready"
    fi
    step "copying the tree" copy_tree
    step "building mmlearnconv" \
        "$PYTHON" -m pip install -q --no-build-isolation --no-deps -e "$FOLDER/tree"
    printf '[%4d s] testing on %s, PyTorch %s\n' "$SECONDS" "$language" "$version"
    (cd "$FOLDER/tree" && env -u CI "$PYTHON" -m pytest -q -p no:cacheprovider \
        --numprocesses logical --dist loadgroup -m "not long" tests/ops tests/layers) || failed=1
done
exit "$failed"
