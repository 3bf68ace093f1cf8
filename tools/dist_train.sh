#!/usr/bin/env bash
# dist_train.sh CONFIG PROCESSES [options of train.py]
# Several nodes: NNODES, NODE_RANK, MASTER_ADDR and PORT. Without GPUs the processes run on the CPU.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: [NNODES= NODE_RANK= MASTER_ADDR= PORT=] bash $0 CONFIG PROCESSES [options]" >&2; exit 2; }
TOOLS="$(cd "$(dirname "$0")" && pwd)"
PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$2" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$TOOLS/train.py" "$1" --launcher pytorch "${@:3}"
