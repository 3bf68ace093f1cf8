#!/usr/bin/env bash
# Lint, format check and tests, in an environment that is made if need be. Arguments go to pytest.
NEED="pytest xdist ruff DCLS onnxscript" source "$(dirname "$0")/setup_env.sh"
cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
# A worker per core, each with one thread; groups are tests that share a costly fixture.
"$PYTHON" -m pytest --numprocesses logical --maxprocesses 8 --dist loadgroup "$@"
