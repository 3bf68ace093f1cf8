"""Running a config."""

import gc
import importlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from operator import attrgetter
from pathlib import Path

import torch.distributed
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..engine import (
    DivergenceHook,
    LoadReportHook,
    ResumeCheckHook,
    TakeoverReportHook,
    save_atomically,
)
from ..engine.model import unwrap_model
from ..errors import UserError, UserTypeError, UserValueError
from ..layers.base import LearnableConv
from .conv_cfgs import check_conv_cfg_used, explain_refusal
from .distributed import is_first
from .labels import LabelCheckHook

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def run(cfg: Config, action: str) -> None:
    """Build a config's runner, call its ``train`` or ``test``, and close its process group.

    A training run has its working folder to itself, and writes checkpoints whole or not at all.

    Raises:
        SystemExit: a checkpoint cannot, or must not, be loaded; another run trains in the folder; a
            step made a parameter of a learnable convolution NaN or infinite; a component ignores
            its ``conv_cfg``; ``efficient_conv_bn_eval`` is on for learnable convolutions, which
            mmengine cannot trace for it; or the cache of YAPF is damaged.
    """
    training = action == "train"
    try:
        with alone_in(cfg.work_dir) if training and is_first(cfg.launcher) else nullcontext():
            if training:
                save_atomically()
                _keep_two(cfg)
            runner = _build(cfg)
            getattr(runner, action)()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        if training:
            print(f"--resume goes on from the last checkpoint in {cfg.work_dir}", file=sys.stderr)
        raise
    if torch.distributed.is_initialized():
        # A DistributedDataParallel that outlives its gloo group destroys it while holding the GIL,
        # and may deadlock with a thread that needs the GIL: so the runner is deleted first.
        del runner
        gc.collect()
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def import_yapf() -> None:
    """Import YAPF, with which mmengine prints configs.

    At its first import it caches grammars, under their final names before they are written whole:
    of processes that begin together, as on several GPUs, one may find an empty file.

    Raises:
        SystemExit: such a file was left behind.
    """
    for pause in (0.1, 1.0, 0.0):
        try:
            importlib.import_module("yapf")
        except EOFError:
            time.sleep(pause)
        else:
            return
    from platformdirs import user_cache_dir

    sys.exit(f"error: {user_cache_dir('YAPF', 'Google')}: the cache of YAPF is damaged; delete it")


def _build(cfg: Config) -> Runner:
    import_yapf()
    try:
        runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    except TypeError as error:
        if reason := explain_refusal(error):
            raise UserTypeError(reason) from error
        raise
    model = unwrap_model(runner.model)
    check_conv_cfg_used(cfg, model)
    checks = ResumeCheckHook(), LabelCheckHook(), DivergenceHook()
    for hook in (TakeoverReportHook(), LoadReportHook(), *checks):
        runner.register_hook(hook)
    traced = cfg.get("efficient_conv_bn_eval") or []
    for name in [traced] if isinstance(traced, str) else traced:
        if any(isinstance(m, LearnableConv) for m in attrgetter(name)(model).modules()):
            raise UserValueError(
                f"efficient_conv_bn_eval: {name} holds learnable convolutions, which it "
                "cannot trace; remove it from the config, or fold the model first"
            )
    return runner


def _keep_two(cfg: Config) -> None:
    """Not one checkpoint: mmengine removes the oldest before it has written the next."""
    hook = cfg.get("default_hooks", {}).get("checkpoint") or {}
    if hook.get("max_keep_ckpts") == 1:
        hook.max_keep_ckpts = 2
        print_log(
            "default_hooks.checkpoint.max_keep_ckpts=1: keeping 2, so that a run that is killed "
            "while it saves can go on",
            "current",
            logging.WARNING,
        )


class FolderInUseError(UserError, RuntimeError):
    """Another run trains in the folder."""


@contextmanager
def alone_in(folder: str | os.PathLike) -> Iterator[None]:
    """A context in which no other process of this machine enters it for the same folder.

    Raises:
        FolderInUseError: one is in it.
    """
    if fcntl is None:
        yield
        return
    path = Path(folder) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            # Unlike flock, not inherited by loaders' workers, which outlive a kill.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            raise FolderInUseError(
                f"--work-dir {folder}: process {file.read().strip() or '?'} trains there; wait for "
                "it, or name another folder"
            ) from error
        except OSError as error:
            # As on some network file systems.
            print_log(f"{path} cannot be locked: {error}", "current", logging.WARNING)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
