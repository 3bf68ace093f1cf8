#!/usr/bin/env bash
# Lint, types, the documentation's site, and tests, in an environment that is made if need be.
#   bash tools/run_tests.sh              all but the slow tests, in 10 minutes on 2 cores
#   bash tools/run_tests.sh --all        all tests but the long ones; sdist and wheel are built, and
#                                        tested in an environment with PyTorch alone
#   bash tools/run_tests.sh --long       only the long tests
# Further arguments go to pytest.
PART=quick
case "${1:-}" in --all | --long) PART="${1#--}"; shift ;; esac
NEED="pytest xdist hypothesis ruff mypy clang_format build DCLS onnxscript sklearn latex2mathml mkdocs material mkdocstrings" source "$(dirname "$0")/setup_env.sh"
cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$(dirname "$PYTHON")/clang-format" --dry-run -Werror $(git ls-files "*.h" "*.cpp" "*.cu" "*.cuh")
"$PYTHON" -m mypy
NO_MKDOCS_2_WARNING=1 "$PYTHON" -m mkdocs build -q --strict -d "$(mktemp -d)/site"
# A worker per core, each with one thread; groups are tests that share a costly fixture.
tests() { "$PYTHON" -m pytest --numprocesses logical --maxprocesses 8 --dist loadgroup --no-loadscope-reorder "$@"; }
case "$PART" in
    quick) tests -m "not slow and not long" "$@"; exit ;;
    long) tests -m long --durations 0 "$@"; exit ;;
esac
tests -m "not long" --durations 20 "$@"
PYTHON="$PYTHON" bash tools/test_packages.sh
