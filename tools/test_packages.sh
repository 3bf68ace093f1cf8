#!/usr/bin/env bash
# Build sdist and wheel, install each where PyTorch is, and see that the operations work.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="${PYTHON:-python}"
FOLDER="$(mktemp -d)"
trap 'rm -rf "$FOLDER"' EXIT
(cd "$ROOT" && git ls-files -z | tar --null -T - -c) | tar -x -C "$FOLDER" --one-top-level=tree
"$PYTHON" -m build -q --no-isolation --outdir "$FOLDER/dist" "$FOLDER/tree"
for package in "$FOLDER"/dist/*.tar.gz "$FOLDER"/dist/*.whl; do
    target="$FOLDER/installed-${package##*.}"
    "$PYTHON" -m pip install -q --no-deps --no-build-isolation --target "$target" "$package"
    (cd "$FOLDER" && PYTHONPATH="$target" "$PYTHON" - "$target" <<'PY'
import sys

import torch

import mmlearnconv
from mmlearnconv import ops

assert mmlearnconv.__file__.startswith(sys.argv[1]), mmlearnconv.__file__
assert ops.has_extension()
ops.dcls_kernel(torch.ones(1, 1, 1), torch.zeros(2, 1, 1, 1), (3, 3))
print(f"{sys.argv[1].rsplit('-')[-1]}: installed, compiled, runs")
PY
    )
done
