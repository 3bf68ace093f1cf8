"""From arguments to a config that a Runner can be built from."""

import argparse
import copy
import importlib
import importlib.util
import inspect
import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from mmengine.runner import Runner

from ..datasets import name_unreadable_images
from ..engine import check_pretrained, enforce_weights_only, newest_checkpoint
from ..errors import UserValueError
from ..layers.arguments import unknown
from .class_types import name_classes, toolbox_of
from .conv_cfgs import check_conv_types
from .data import set_data_root
from .distributed import use_gloo
from .nested import nested_dicts

# Extras of this package by the scope of the toolbox that they install.
_EXTRAS = dict(mmdet="det", mmseg="seg", mmpretrain="cls")


def read_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Read a config and override some of its values.

    Like ``_base_``, a path may begin with an installed toolbox, whose configs it is relative to:
    ``mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py``.

    Raises:
        FileNotFoundError: there is no such config, or no such toolbox.
        ValueError: it cannot be read, has no model, or names a convolution that is not registered;
            an option's first name is nearly that of a part of the config; or a toolbox that it
            inherits from, or its ``default_scope``, cannot be imported.
    """
    toolbox, _, name = str(path).rpartition("::")
    if toolbox.isidentifier():
        spec = importlib.util.find_spec(toolbox)
        if spec is None:
            hint = _how_to_install(toolbox)
            raise FileNotFoundError(f"config {path}: {toolbox} is not installed{hint}")
        path = str(Path(str(spec.origin)).parent / ".mim" / "configs" / name)
    if not Path(path).is_file():
        same_name = sorted(map(str, Path(path).parent.rglob(Path(path).name)))
        hint = f"; did you mean {' or '.join(same_name)}?" if same_name else ""
        raise FileNotFoundError(f"config {path} does not exist{hint}")
    try:
        cfg = Config.fromfile(path)
    except ModuleNotFoundError as error:
        # Of a config that it inherits.
        raise UserValueError(f"config {path}: {error}{_how_to_install(str(error))}") from error
    except Exception as error:  # A config is Python: any exception may come.
        raise UserValueError(f"config {path}: {type(error).__name__}: {error}") from error
    if not isinstance(cfg.get("model"), dict):
        raise UserValueError(f"config {path} has no model")
    for key in options or {}:
        _refuse_misspelt(cfg, key)
        _make_room(cfg, key)
    cfg.merge_from_dict(options or {})
    if cfg.get("default_scope") is None:
        # Configs in pure Python do without.
        model = cfg.model.get("target", cfg.model.get("type"))
        if toolbox := toolbox_of(model, _EXTRAS):
            cfg.default_scope = toolbox
    _need_toolbox(cfg.get("default_scope"))
    name_classes(cfg)
    check_conv_types(cfg)
    if "data_preprocessor" in cfg and "model" in cfg:
        # As mmengine's Runner does; mmpretrain's has the number of classes.
        cfg.model.setdefault("data_preprocessor", cfg.data_preprocessor)
    return cfg


def _refuse_misspelt(cfg: Config, option: str) -> None:
    """mmengine would add it to the config, and pass it over."""
    name = option.partition(".")[0]
    parts = {*cfg, *inspect.signature(Runner).parameters}
    # The toolboxes' tta_* names resemble test_*.
    if name in parts or name.startswith("tta_"):
        return
    if near := get_close_matches(name, parts, 1, 0.8):
        raise UserValueError(
            f"--cfg-options {option}: the config has no {name}; did you mean {near[0]}?"
        )


def _make_room(cfg: Config, key: str) -> None:
    """Let a dotted key go into what is ``None``, as ``init_cfg`` often is."""
    *parents, _ = key.split(".")
    value: Any = cfg
    for name in parents:
        if not isinstance(value, (Config, dict)) or name not in value:
            return
        if value[name] is None:
            value[name] = {}
        value = value[name]


def _need_toolbox(scope: str | None) -> None:
    """Import the toolbox of a config; mmengine would go on without it, and miss its types."""
    if scope in _EXTRAS:
        try:
            importlib.import_module(f"{scope}.models")
        except ImportError as error:
            raise UserValueError(
                f"default_scope {scope!r}: {scope} cannot be imported ({error})"
                f"{_how_to_install(scope)}"
            ) from error
    elif scope not in (None, MODELS.scope, *MODELS.children):
        raise UserValueError(f"default_scope: {unknown(scope, _EXTRAS)}")


def _how_to_install(what: str) -> str:
    scope = next((scope for scope in _EXTRAS if scope in what), None)
    if scope is None:
        return ""
    spec = importlib.util.find_spec(scope)
    if spec is not None and "::" not in what and "install" in what:
        # mmengine knows toolboxes by the names of their distributions, of which there are two.
        folder = Path(str(spec.origin)).parent / ".mim" / "configs"
        return f". {scope} is here under another name: write the base's path, {folder}/..."
    return f"; pip install 'mmlearnconv[{_EXTRAS[scope]}]'"


def load_config(args: argparse.Namespace) -> Config:
    """Read a config and apply the options of :func:`argument_parser` to it.

    From here on the process loads checkpoints as :func:`load_checkpoint` does, initialises from
    them by :class:`CheckedPretrainedInit`, and names images that it cannot read.

    The working folder is ``--work-dir``, else the config's, else ``work_dirs/<config's name>``.

    Raises:
        FileNotFoundError: no such config.
        ValueError: its toolbox cannot be imported, or ``data_root`` cannot be applied to it.
    """
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    enforce_weights_only(args.trust_checkpoint)
    check_pretrained()
    cfg = read_config(args.config, args.cfg_options)
    name_unreadable_images(cfg.get("default_scope"))
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


def use_resume(cfg: Config, checkpoint: str) -> None:
    """Go on from a checkpoint, or with ``'auto'`` from the newest whole one in the working folder.

    Where that has none the run begins, with the config's ``load_from``.

    Raises:
        CheckpointError: all of the folder's checkpoints are damaged.
    """
    found = newest_checkpoint(cfg.work_dir) if checkpoint == "auto" else checkpoint
    cfg.resume = found is not None
    if found is not None:
        cfg.load_from = str(found)


def use_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate by the ratio of the actual batch size to the recipe's.

    Raises:
        ValueError: the config does not give the recipe's batch size.
    """
    if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
        raise UserValueError("--auto-scale-lr needs auto_scale_lr.base_batch_size in the config")
    cfg.auto_scale_lr.enable = True


# What the toolboxes' own test.py takes where a config names none; mmseg's takes none.
_TTA_MODELS: dict[str, dict[str, Any]] = dict(
    mmdet=dict(
        type="DetTTAModel",
        tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100),
    ),
    mmseg=dict(type="SegTTAModel"),
    mmpretrain=dict(type="AverageClsScoreTTA"),
)


def use_tta(cfg: Config) -> None:
    """Have a test run merge the predictions for several views of each image.

    The config's ``tta_model`` and ``tta_pipeline`` say how; by default, the toolbox's own model
    merges an image and its mirror image.

    Raises:
        ValueError: the config is of no toolbox that can, or its model predicts masks of objects,
            which mmdet's own model does not merge.
    """
    scope = cfg.get("default_scope")
    masks = any(part.get("mask_head") for _, part in nested_dicts(cfg.model))
    if scope == "mmdet" and masks and cfg.get("tta_model", {}).get("type") in (None, "DetTTAModel"):
        raise UserValueError(
            "--tta: mmdet's DetTTAModel merges boxes, and this model predicts masks; give "
            "tta_model and tta_pipeline, or set model.roi_head.mask_head=None and the evaluator's "
            "metric='bbox'"
        )
    if "tta_model" not in cfg and scope not in _TTA_MODELS:
        raise UserValueError(f"--tta: default_scope is {scope!r}; give tta_model and tta_pipeline")
    datasets = [
        part for _, part in nested_dicts(cfg.test_dataloader.dataset) if part.get("pipeline")
    ]
    if not datasets:
        raise UserValueError("--tta: test_dataloader.dataset has no pipeline")
    for dataset in datasets:
        dataset.pipeline = copy.deepcopy(cfg.get("tta_pipeline") or _mirrored(dataset.pipeline))
    cfg.model = ConfigDict(**cfg.get("tta_model", _TTA_MODELS.get(scope)), module=cfg.model)


def _mirrored(pipeline: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A test pipeline that ends with an image and its mirror image."""
    *steps, pack = pipeline
    # mmdet's steps that pack leave out what it needs to mirror predictions back.
    keys = pack.get("meta_keys") or (
        ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
        if str(pack["type"]).endswith("PackDetInputs")
        else ()
    )
    flipped = dict(pack, meta_keys=(*keys, "flip", "flip_direction")) if keys else pack
    mirrored = [dict(type="RandomFlip", prob=1.0), dict(type="RandomFlip", prob=0.0)]
    return [*steps, dict(type="TestTimeAug", transforms=[mirrored, [flipped]])]


def draw_predictions(cfg: Config, folder: str) -> None:
    """Have a test run draw every prediction into ``folder``.

    Raises:
        ValueError: the config has no visualisation hook.
    """
    hook = cfg.get("default_hooks", {}).get("visualization")
    if hook is None:
        raise UserValueError("--show-dir needs default_hooks.visualization in the config")
    folder = os.path.abspath(folder)
    if hook.type == "VisualizationHook":
        hook.enable = True
        hook.out_dir = folder
        return
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
        raise UserValueError(f"--out {path}: must end with .pkl or .pickle")
    metric = "DumpDetResults" if cfg.get("default_scope") == "mmdet" else "DumpResults"
    evaluators = (
        cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    )
    cfg.test_evaluator = [*evaluators, dict(type=metric, out_file_path=path)]
