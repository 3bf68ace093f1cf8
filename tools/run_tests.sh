#!/usr/bin/env bash
# Lint, types, the documentation's site, and tests, in an environment that is made if need be.
#   bash tools/run_tests.sh              all but the slow tests, in 10 minutes on 2 cores
#   bash tools/run_tests.sh --all        all tests; operations and layers without the compiled
#                                        operations too; sdist and wheel are built and installed
# Further arguments go to pytest.
ALL=false
[ "${1:-}" != --all ] || { ALL=true; shift; }
NEED="pytest xdist ruff mypy clang_format build DCLS onnxscript sklearn latex2mathml mkdocs material mkdocstrings" source "$(dirname "$0")/setup_env.sh"
cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$(dirname "$PYTHON")/clang-format" --dry-run -Werror $(git ls-files "*.h" "*.cpp" "*.cu" "*.cuh")
"$PYTHON" -m mypy
NO_MKDOCS_2_WARNING=1 "$PYTHON" -m mkdocs build -q --strict -d "$(mktemp -d)/site"
# A worker per core, each with one thread; groups are tests that share a costly fixture.
tests() { "$PYTHON" -m pytest --numprocesses logical --maxprocesses 8 --dist loadgroup --no-loadscope-reorder "$@"; }
if ! "$ALL"; then
    tests -m "not slow" "$@"
    exit
fi
tests --durations 20 "$@"
MMLEARNCONV_WITHOUT_OPS=1 tests -m "not slow" tests/ops tests/layers "$@"
PYTHON="$PYTHON" bash tools/test_packages.sh
