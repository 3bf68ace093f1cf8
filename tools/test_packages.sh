#!/usr/bin/env bash
# Build the sdist and from it the wheel, install that, and see that its operations work.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="${PYTHON:-python}"
FOLDER="$(mktemp -d)"
trap 'rm -rf "$FOLDER"' EXIT
(cd "$ROOT" && git ls-files -z | tar --null -T - -c) | tar -x -C "$FOLDER" --one-top-level=tree
"$PYTHON" -m build -q --no-isolation --outdir "$FOLDER/dist" "$FOLDER/tree"
tar -tzf "$FOLDER"/dist/*.tar.gz >"$FOLDER/names"
for needed in dcls.h depthwise_taps.h dcls.cu launch.cuh; do
    grep -q "/$needed\$" "$FOLDER/names" || { echo "the sdist lacks $needed" >&2; exit 1; }
done
# The wheel was built from the sdist.
target="$FOLDER/installed"
"$PYTHON" -m pip install -q --no-deps --target "$target" "$FOLDER"/dist/*.whl
cd "$FOLDER"
PYTHONPATH="$target" "$PYTHON" - "$target" <<'PY'
import sys

import torch

import mmlearnconv
from mmlearnconv import ops

assert mmlearnconv.__file__.startswith(sys.argv[1]), mmlearnconv.__file__
assert ops.has_extension()
ops.dcls_kernel(torch.ones(1, 1, 1), torch.zeros(2, 1, 1, 1), (3, 3))
print("sdist and wheel: built, installed, compiled, running")
PY
