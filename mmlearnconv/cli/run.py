"""Running a config."""

import gc
import sys
from operator import attrgetter

import torch.distributed
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..engine import CheckpointError, LoadReportHook, TakeoverReportHook
from ..engine.model import unwrap_model
from ..layers.base import LearnableConv


def run(cfg: Config, action: str) -> None:
    """Build a config's runner, call its ``train`` or ``test``, and close its process group.

    Raises:
        SystemExit: a checkpoint cannot, or must not, be loaded, or ``efficient_conv_bn_eval`` is on
            for learnable convolutions, which mmengine cannot trace for it.
    """
    runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    runner.register_hook(TakeoverReportHook())
    runner.register_hook(LoadReportHook())
    traced = cfg.get("efficient_conv_bn_eval") or []
    for name in [traced] if isinstance(traced, str) else traced:
        if any(
            isinstance(m, LearnableConv)
            for m in attrgetter(name)(unwrap_model(runner.model)).modules()
        ):
            sys.exit(
                f"error: efficient_conv_bn_eval: {name} holds learnable convolutions, which it "
                "cannot trace; remove it from the config, or fold the model first"
            )
    try:
        getattr(runner, action)()
    except CheckpointError as error:
        sys.exit(f"error: {error}")
    if torch.distributed.is_initialized():
        # A DistributedDataParallel that outlives its gloo group destroys it while holding the GIL,
        # and may deadlock with a thread that needs the GIL: so the runner is deleted first.
        del runner
        gc.collect()
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
