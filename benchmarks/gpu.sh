#!/usr/bin/env bash
# Build, test and measure on a machine with a GPU, in stages of a few minutes each:
#   bash benchmarks/gpu.sh [STAGE ...]
# Stages: build, tests, deterministic, memcheck, racecheck, figures. Without a name all run that have
# not passed yet. What a stage prints is kept in gpu_results/STAGE.log, and gpu_results/STAGE.passed
# marks that it passed; gpu_results/figures.md is a table for docs/speed.md.
# Needed: PyTorch with CUDA, nvcc, ninja and pytest, but neither mmcv nor mmengine.
set -euo pipefail
cd "$(dirname "$0")/.."
results=gpu_results
mkdir -p "$results"
export PYTHONPATH=$PWD MMLEARNCONV_TEST_DEVICE=cuda CUBLAS_WORKSPACE_CONFIG=:4096:8
tests=(tests/ops --ignore tests/ops/test_cuda_sources.py --ignore tests/ops/test_extension.py)

build() {
    FORCE_CUDA=1 python setup.py build_ext --inplace
    # A library that does not load only warns.
    python -W error -c "
from mmlearnconv.ops import extension
assert extension.has_kernels_for('cuda'), 'the build has no CUDA kernels'
assert extension.has_kernels_for('cuda', 'dke_taps'), 'the build is an old one'"
}
tests() { python -m pytest -q "${tests[@]}"; }
deterministic() { MMLEARNCONV_TEST_DETERMINISTIC=1 python -m pytest -q "${tests[@]}"; }
# Each tensor in memory of its own, so that what lies beside it is not another tensor.
sanitized() {
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 MMLEARNCONV_TEST_CASES=4 compute-sanitizer --tool "$1" \
        --error-exitcode 1 python -m pytest -q tests/ops/test_random.py -k "compiled and not devices"
}
memcheck() { sanitized memcheck; }
racecheck() { sanitized racecheck; }
figures() { python benchmarks/gpu.py --markdown "$results/figures.md"; }

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
stages=("$@")
[ $# -gt 0 ] || stages=(build tests deterministic memcheck racecheck figures)
for stage in "${stages[@]}"; do
    if [ $# -eq 0 ] && [ -e "$results/$stage.passed" ]; then
        echo "$stage: passed before"
        continue
    fi
    rm -f "$results/$stage.passed"
    echo "$stage: running; its output goes to $results/$stage.log"
    if (set -e; "$stage") >"$results/$stage.log" 2>&1; then
        tail -n 1 "$results/$stage.log"
        touch "$results/$stage.passed"
    else
        tail -n 25 "$results/$stage.log" >&2
        echo "gpu.sh failed in the stage $stage; all of its output is in $results/$stage.log" >&2
        exit 1
    fi
done
