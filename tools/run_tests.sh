#!/usr/bin/env bash
# Lint, format check and tests, in an environment that is made if need be. Arguments go to pytest.
NEED="pytest ruff DCLS onnxscript" source "$(dirname "$0")/setup_env.sh"
cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m pytest "$@"
