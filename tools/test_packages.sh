#!/usr/bin/env bash
# Build the sdist and from it the wheel, install that, and see that its operations work, and that mim
# finds, trains and tests its configs outside of a checkout.
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

# An environment with PyTorch alone: all above the wall that keeps OpenMMLab out. The operations and
# layers run without the compiled operations there, which no other tests do; the rest runs with them.
alone="$FOLDER/alone"
"$PYTHON" -m venv "$alone"
# Not what the checkout has on its path.
unset PYTHONPATH
"$alone/bin/pip" install -q "torch==$("$PYTHON" -c 'import torch; print(torch.__version__.partition("+")[0])')" \
    $(sed -n 's/ *#.*//; /^\(pytest\|pytest-xdist\|hypothesis\|dcls\|setuptools\|onnxscript\)==/Ip' "$ROOT/requirements.txt")
"$alone/bin/pip" install -q --no-deps "$FOLDER"/dist/*.whl
cp "$target"/mmlearnconv/ops/_ext*.so tree/mmlearnconv/ops/
alone() {
    (cd tree && PATH="$alone/bin:$PATH" "$alone/bin/python" -m pytest -q --numprocesses logical --maxprocesses 8 \
        --no-loadscope-reorder --dist loadgroup -m "not slow and not long" "$@")
}
MMLEARNCONV_WITHOUT_OPS=1 alone tests/ops tests/layers
alone tests/surgery tests/analysis

# openmim needs pkg_resources, which setuptools 82 dropped.
"$PYTHON" -m pip install -q --no-compile --no-deps --target "$FOLDER/mim" openmim==0.3.9 \
    model-index==0.1.11 ordered-set==4.1.0 pandas==2.3.3 tabulate==0.9.0 setuptools==80.9.0 \
    pytz==2025.2 tzdata==2025.2
mim() {
    PYTHONPATH="$target:$FOLDER/mim" "$PYTHON" -W ignore "$FOLDER/mim/bin/mim" "$@" >"$FOLDER/said" 2>&1 || {
        cat "$FOLDER/said" >&2
        exit 1
    }
}
mim search mmlearnconv --dataset CIFAR-10 --field config
grep -q configs/dke/resnet18_dke_cifar10.py "$FOLDER/said"
config=quickstart_mask_rcnn_dcls.py
mim train mmlearnconv "$config" --gpus 0 --work-dir "$FOLDER/run" \
    --cfg-options train_cfg.max_iters=1 train_cfg.val_begin=9
mim test mmlearnconv "$config" --checkpoint "$FOLDER/run/iter_1.pth" --gpus 0 \
    --work-dir "$FOLDER/run" --cfg-options test_dataloader.dataset.indices=2
grep -q coco/segm_mAP "$FOLDER/said"
echo "mim: searched, trained, tested"
