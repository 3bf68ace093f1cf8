"""What the command lines do to a config before the Runner is built."""

import argparse
import gc
import os
import sys
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from mmengine.config import Config, DictAction
from mmengine.logging import print_log
from mmengine.registry import DATASETS, RUNNERS, DefaultScope
from mmengine.runner import Runner

from ..layers import LearnableConv
from .checkpoint import CheckpointError, guard_checkpoints
from .model import bare_model

_DATALOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
_EVALUATORS = ("train_evaluator", "val_evaluator", "test_evaluator")

# Where launchers other than torch's put the rank, the number of ranks and the rank on this host.
_RANK_VARIABLES = {
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
}


def argument_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the config and the options that all command lines share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config", help="config file")
    parser.add_argument("--work-dir", help="folder for logs and results")
    parser.add_argument(
        "--data-root", help="folder that holds the data, in place of the config's data_root"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        help='override config values: key=value, key="[a,b]", key=a,b',
    )
    add_trust_option(parser)
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)
    return parser


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """The option that lifts :func:`guard_checkpoints`."""
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="load checkpoints that bring code, and run it: only from people you trust",
    )


def read_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """A config, some of its values overridden.

    Raises:
        FileNotFoundError: no such config.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"config {path} does not exist")
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(options or {})
    return cfg


def load_config(args: argparse.Namespace) -> Config:
    """Read a config and apply the options of :func:`argument_parser` to it.

    From here on the process loads checkpoints as :func:`load_checkpoint` does.

    The working folder is ``--work-dir``, else the config's, else ``work_dirs/<config's name>``.

    Raises:
        FileNotFoundError: no such config.
        ValueError: ``data_root`` cannot be applied to the config.
    """
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    guard_checkpoints(args.trust_checkpoint)
    cfg = read_config(args.config, args.cfg_options)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / Path(args.config).stem)
    if args.data_root is not None:
        set_data_root(cfg, args.data_root)
    cfg.launcher = args.launcher
    if args.launcher != "none" and not torch.cuda.is_available():
        use_gloo(cfg, args.launcher)
    return cfg


def set_data_root(cfg: Config, root: str) -> None:
    """Point every data loader and evaluator of a config at data under ``root``.

    Every path that starts with the data sets' ``data_root`` (their common parent where they differ)
    starts with ``root`` instead.

    Raises:
        ValueError: no data set has a ``data_root``, or they have no common parent.
    """
    old_roots = {dataset["data_root"] for _, dataset in _datasets(cfg) if dataset.get("data_root")}
    if not old_roots:
        raise ValueError(
            f"--data-root {root}: no data set of the config has a data_root to replace"
        )
    try:
        old = os.path.commonpath(old_roots)
    except ValueError:
        old = ""
    if not old:
        raise ValueError(
            f"--data-root {root}: the data sets' roots {sorted(old_roots)} have no common parent; "
            "set each one by --cfg-options"
        )

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            for key in value:
                value[key] = replaced(value[key])
        elif isinstance(value, (list, tuple)):
            return type(value)(replaced(v) for v in value)
        elif isinstance(value, str):
            path = os.path.normpath(value)
            if path == old or path.startswith(old + os.sep):
                # A trailing slash stays: some configs concatenate.
                end = os.sep if value.endswith(os.sep) else ""
                return os.path.normpath(os.path.join(root, os.path.relpath(path, old))) + end
        return value

    for key in (*_DATALOADERS, *_EVALUATORS, "data_root"):
        if key in cfg:
            cfg[key] = replaced(cfg[key])


def check_data(cfg: Config, *splits: str) -> None:
    """Make sure that the files of the named splits' data sets exist.

    Args:
        cfg: the config.
        splits: ``'train'``, ``'val'``, ``'test'``.

    Raises:
        FileNotFoundError: one does not, in a sentence that says how to point elsewhere.
    """
    for loader, dataset in _datasets(cfg):
        if loader.removesuffix("_dataloader") not in splits:
            continue
        with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
            kind = DATASETS.get(dataset["type"]) if "type" in dataset else None
        if getattr(kind, "makes_its_data", False):
            continue
        root = dataset.get("data_root") or ""
        prefixes = dataset.get("data_prefix") or {}
        for part in (dataset.get("ann_file"), *prefixes.values()):
            path = os.path.join(root, part) if isinstance(part, str) else root
            if path and "://" not in path and not os.path.exists(path):
                raise FileNotFoundError(
                    f"no data for {loader}: looked for {path} under data_root {root or '(none)'}; "
                    "name the folder that holds your data with --data-root DIR"
                )


def use_amp(cfg: Config) -> None:
    """Train in automatic mixed precision.

    float16 with dynamic loss scaling on a GPU, bfloat16 without one; a config that already names a
    wrapper for mixed precision keeps it.
    """
    if cfg.optim_wrapper.get("type", "OptimWrapper") != "OptimWrapper":
        return
    if torch.cuda.is_available():
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.loss_scale = "dynamic"
    else:
        cfg.optim_wrapper.type = "BFloat16OptimWrapper"


def use_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate by the real batch size over the recipe's.

    Raises:
        ValueError: the config does not say the recipe's batch size.
    """
    if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
        raise ValueError("--auto-scale-lr needs auto_scale_lr.base_batch_size in the config")
    cfg.auto_scale_lr.enable = True


def draw_predictions(cfg: Config, folder: str) -> None:
    """Have a test run draw every prediction into ``folder``.

    Raises:
        ValueError: the config has no visualisation hook.
    """
    hook = cfg.get("default_hooks", {}).get("visualization")
    if hook is None:
        raise ValueError("--show-dir needs default_hooks.visualization in the config")
    folder = os.path.abspath(folder)
    hook.draw = True
    if hook.type == "DetVisualizationHook":
        hook.test_out_dir = folder
    else:
        cfg.visualizer.save_dir = folder


def dump_predictions(cfg: Config, path: str) -> None:
    """Have a test run write its predictions to a pickle file.

    Raises:
        ValueError: ``path`` does not end with ``.pkl`` or ``.pickle``.
    """
    if not path.endswith((".pkl", ".pickle")):
        raise ValueError(f"--out {path}: must end with .pkl or .pickle")
    metric = "DumpDetResults" if cfg.get("default_scope") == "mmdet" else "DumpResults"
    evaluators = (
        cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    )
    cfg.test_evaluator = [*evaluators, dict(type=metric, out_file_path=path)]


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
    if _replace_sync_bn(cfg.model):
        print_log("SyncBN needs a GPU: training with BN, whose statistics differ by rank")


def run(cfg: Config, action: str) -> None:
    """Build a config's runner, have it ``'train'`` or ``'test'``, and leave its process group.

    Raises:
        SystemExit: a checkpoint cannot, or must not, be loaded, or ``efficient_conv_bn_eval`` is on
            for learnable convolutions, whose code it cannot trace.
    """
    runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    traced = cfg.get("efficient_conv_bn_eval") or []
    for name in [traced] if isinstance(traced, str) else traced:
        if any(
            isinstance(m, LearnableConv)
            for m in attrgetter(name)(bare_model(runner.model)).modules()
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
        # A DistributedDataParallel that outlives its gloo group ends it while holding Python's
        # lock, and may wait for ever for a thread that needs the lock: the runner goes first.
        del runner
        gc.collect()
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _replace_sync_bn(value: Any) -> bool:
    found = False
    if isinstance(value, dict):
        if value.get("type") == "SyncBN":
            value["type"] = "BN"
            found = True
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            found = _replace_sync_bn(item) or found
    return found


def _datasets(cfg: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every data set of every data loader, below wrappers too, with the loader's name."""

    def walk(value: Any) -> Iterator[dict[str, Any]]:
        if isinstance(value, dict):
            if "data_root" in value or "ann_file" in value:
                yield value
            value = list(value.values())
        if isinstance(value, (list, tuple)):
            for item in value:
                yield from walk(item)

    for loader in _DATALOADERS:
        for dataset in walk((cfg.get(loader) or {}).get("dataset")):
            yield loader, dataset
