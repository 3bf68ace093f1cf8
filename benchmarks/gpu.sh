#!/usr/bin/env bash
# Build the operations for this machine's GPU, test them on it, and measure what can be measured:
#   bash benchmarks/gpu.sh [FOLDER FOR JSON FILES]
# PyTorch with CUDA, nvcc, ninja and pytest are needed; the benchmarks need mmengine and mmcv too.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-gpu_benchmarks}")
mkdir -p "$out"
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
FORCE_CUDA=1 python setup.py build_ext --inplace
export PYTHONPATH=$PWD MMLEARNCONV_TEST_DEVICE=cuda CUBLAS_WORKSPACE_CONFIG=:4096:8
tests=(tests/ops --ignore tests/ops/test_cuda_sources.py --ignore tests/ops/test_extension.py)
python -m pytest -q "${tests[@]}"
if command -v compute-sanitizer > /dev/null; then
  compute-sanitizer --error-exitcode 1 python -m pytest -q -k "operator or by_hand" "${tests[@]}"
fi
if python -c "import mmengine, mmcv" 2> /dev/null; then
  # Those that compare modules side by side.
  for script in $(grep -l "benchmark.run(" benchmarks/*.py); do
    python "$script" --device cuda --json "$out/$(basename "$script" .py).json"
  done
else
  echo "no mmengine and mmcv here: the benchmarks were not run"
fi
