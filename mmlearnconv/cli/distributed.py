"""Distributed runs without a GPU."""

import os

import torch.distributed
from mmengine.config import Config
from mmengine.logging import print_log

from .nested import nested_dicts

# Where launchers other than torch's put the rank, the number of ranks and the rank on this host.
_RANK_VARIABLES = {
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
}


def is_first(launcher: str) -> bool:
    """Whether this process is the run's only one, or the first of those that a launcher starts."""
    if launcher == "none":
        return True
    variable = _RANK_VARIABLES.get(launcher, ("RANK",))[0]
    return os.environ.get(variable, "0") == "0"


def use_gloo(cfg: Config, launcher: str) -> None:
    """Let a distributed run work without a GPU: gloo, DDP without devices, no SyncBN.

    mmengine's launchers select a CUDA device, so the process group is opened here.
    """
    for name, source in zip(
        ("RANK", "WORLD_SIZE", "LOCAL_RANK"), _RANK_VARIABLES.get(launcher, ()), strict=False
    ):
        os.environ[name] = os.environ[source]
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    cfg.model_wrapper_cfg = dict(
        type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False
    )
    synchronised = [part for _, part in nested_dicts(cfg.model) if part.get("type") == "SyncBN"]
    for norm in synchronised:
        norm["type"] = "BN"
    if synchronised:
        print_log("SyncBN needs a GPU: training with BN, whose statistics differ by rank")
