#!/usr/bin/env bash
# Make the environment in .venv, or reuse it; an active one that has the stack is used as it is.
# Run it (`bash tools/setup_env.sh`), or source it to get $PYTHON. NEED names further modules that the
# caller wants to find. FAMILY=openmmlab makes one with the original OpenMMLab packages, in
# .venv-openmmlab.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/mmlearnconv"
LOG="$CACHE/setup.log"
case "${FAMILY:=onedl}" in
    onedl) VENV="$ROOT/.venv" MMCV=onedl-mmcv ;;
    openmmlab) VENV="$ROOT/.venv-openmmlab" MMCV=mmcv ;;
    *)
        echo "FAMILY=$FAMILY: must be onedl or openmmlab" >&2
        exit 1
        ;;
esac
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$CACHE"

say() { printf '[%4d s] %s\n' "$SECONDS" "$*"; }

# step WHAT HINT COMMAND...: run it; if it fails, say which step failed and what to do.
step() {
    local what="$1" hint="$2"
    shift 2
    say "$what"
    if ! "$@" >"$LOG" 2>&1; then
        tail -n 25 "$LOG" >&2
        printf '\nset-up failed while: %s\n%s\nThe whole output is in %s\n' "$what" "$hint" "$LOG" >&2
        exit 1
    fi
}

# missing PYTHON MODULE...: those that this Python does not find.
missing() {
    "$@" <<'PY' 2>/dev/null
import sys
from importlib.util import find_spec


def found(name):
    try:
        return find_spec(name)
    except ImportError:  # Its package is absent.
        return None


print(*(name for name in sys.argv[1:] if not found(name)))
PY
}

# All pins of the family.
pins() {
    if [ "$FAMILY" = onedl ]; then
        cat "$ROOT/requirements.txt"
    else
        grep -vE "^(onedl-|setuptools==)" "$ROOT/requirements.txt"
        cat "$ROOT/requirements-openmmlab.txt"
    fi
}
# mmpretrain 1.2 cannot be imported beside newer transformers.
libraries() {
    if [ "$FAMILY" = onedl ]; then
        cat "$ROOT/tests/libraries.txt"
    else
        sed -e "s/^onedl-mmpretrain==.*/mmpretrain==1.2.0/" -e "s/^transformers==.*/transformers==4.45.2/" \
            -e "s/^tokenizers==.*/tokenizers==0.20.3/" "$ROOT/tests/libraries.txt"
    fi
}
pinned() { pins | grep -E "^($1)=="; }

# mmcv with its compiled operations: a wheel of the index if one fits, else built once and kept,
# without debug information, which would double the time.
install_mmcv() {
    local spec wheels file
    spec="$(pinned "$MMCV")"
    file="${MMCV/-/_}-${spec##*==}"
    wheels="$CACHE/wheels/$("$PYTHON" -c 'import sys, sysconfig, torch
print(f"torch{torch.__version__}-cp{sys.version_info[0]}{sys.version_info[1]}-{sysconfig.get_platform()}")')"
    if ! ls "$wheels/$file"-*.whl >/dev/null 2>&1; then
        mkdir -p "$wheels"
        if ! "$PYTHON" -m pip download -q --no-deps --only-binary=:all: -d "$wheels" "$spec" \
            >"$LOG" 2>&1; then
            command -v g++ >/dev/null || {
                echo "set-up needs g++ to build $MMCV: install gcc and g++ (Debian: build-essential)" >&2
                exit 1
            }
            step "building $MMCV with its operations, once for all clones (6 minutes on 2 cores)" \
                "It needs a C++ compiler; with a GPU also the CUDA toolkit of PyTorch's version, or CUDA_VISIBLE_DEVICES= for a CPU build." \
                env MMCV_WITH_OPS=1 MAX_JOBS="$(nproc)" CFLAGS="${CFLAGS:-} -g0" "$PYTHON" -m pip wheel -q --no-cache-dir \
                --no-deps --no-build-isolation -w "$wheels" "$spec"
        fi
    fi
    step "installing $spec from $wheels" "Delete that folder and try again." \
        "$PYTHON" -m pip install -q --no-deps "$wheels/$file"-*.whl
}

make_venv() {
    local base="${PYTHON:-python3}" stamp network
    network="Is the package index reachable? A second run continues where this one stopped."
    PYTHON="$VENV/bin/python"
    stamp="$VENV/ready-$(find "$ROOT"/requirements*.txt "$ROOT/tests/libraries.txt" "$ROOT/setup.py" "$ROOT/mmlearnconv/ops/csrc" \
        -type f | sort | xargs cat | cksum | cut -d' ' -f1)"
    [ -f "$stamp" ] && return
    "$base" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || {
        echo "set-up needs Python 3.11 to 3.13; $base is $("$base" --version 2>&1). Name another by PYTHON=python3.12" >&2
        exit 1
    }
    [ -x "$PYTHON" ] || step "making $VENV" "On Debian the venv module is the package python3-venv." \
        "$base" -m venv "$VENV"
    pins >"$VENV/pins.txt"
    libraries >"$VENV/libraries.txt"
    # shellcheck disable=SC2046
    step "installing PyTorch and the build tools" "$network" "$PYTHON" -m pip install -q --no-compile \
        $(pinned 'torch|setuptools|wheel|ninja|packaging|psutil|numpy')
    install_mmcv
    step "installing mmengine, mmdet, mmseg and what they need" "$network" \
        "$PYTHON" -m pip install -q --no-compile --no-build-isolation -r "$VENV/pins.txt"
    step "installing libraries that tests compare with" "$network" \
        "$PYTHON" -m pip install -q --no-compile --no-deps --no-build-isolation --upgrade --target "$VENV/libraries" \
        -r "$VENV/libraries.txt"
    step "building and installing mmlearnconv" "See the compiler's message above." \
        "$PYTHON" -m pip install -q --no-build-isolation --no-deps -e "$ROOT"
    # It caches grammars; of processes that import it first at once, one may find half a file.
    "$PYTHON" -c "import yapf"
    touch "$stamp"
}

absent=""
if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
    absent="$(missing python - torch mmengine mmcv._ext mmdet mmseg)"
    [ -z "$absent" ] || say "the active environment has no $absent: making another one"
else
    absent="environment"
fi
if [ -z "$absent" ]; then
    PYTHON="$(command -v python)"
    # shellcheck disable=SC2086
    absent="$(missing "$PYTHON" - ${NEED:-})"
    if [ -n "$absent" ]; then
        echo "the active environment, $PYTHON, has no $absent. Install what tests need, at the versions" \
            "that requirements.txt names under 'Types', 'Tests' and 'Documentation':" \
            "pip install pytest pytest-xdist hypothesis ruff mypy clang-format build dcls onnx onnxruntime onnxscript scikit-learn latex2mathml mkdocs-material mkdocstrings-python" \
            "Or deactivate the environment: then one is made in .venv" >&2
        exit 1
    fi
    say "using the active environment, $PYTHON"
else
    make_venv
    say "environment ready: $VENV (source $(basename "$VENV")/bin/activate)"
fi
