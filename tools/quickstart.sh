#!/usr/bin/env bash
# From a fresh clone to a trained and evaluated Mask R-CNN with DCLS: environment, data, training,
# a table of AP, pictures. Results go to quickstart_output/, or the folder named as the argument.
source "$(dirname "$0")/setup_env.sh"
exec "$PYTHON" "$ROOT/tools/quickstart.py" --seconds-so-far "$SECONDS" "${1:-quickstart_output}"
