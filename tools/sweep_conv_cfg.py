"""Put each operator into every conv_cfg of shipped configs; build, train, predict and count.

python tools/sweep_conv_cfg.py [--only SUBSTRING] [--operators DCLS DK ...] [--reach]

Prints one row per config, with the letters of the steps that worked for every operator: B built, T
trained one step with finite gradients, P predicted, F counted multiply-adds. Failures are described
at the end; those that plain convolutions share are listed separately. With --reach, models are only
built, and one row per component tells how many convolutions its conv_cfg reaches, and which stay
plain.
"""

import argparse
import gc
import inspect
import re
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import get_installed_path
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmlearnconv import cli
from mmlearnconv.catalog import operator_names
from mmlearnconv.layers import LearnableConv

PLAIN = "plain"
# These multiply a convolution's weight themselves; SwapConv reaches their other convolutions.
READ_WEIGHTS = {"TOODHead"}
# DINO needs at least as many locations as it has queries.
LEAST_SIZE = {"dino/dino-4scale_r50_8xb2-12e_coco": 256}
MMDET = (
    "faster_rcnn/faster-rcnn_r50_fpn_1x_coco",
    "faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco",
    "mask_rcnn/mask-rcnn_r50_fpn_1x_coco",
    "mask_rcnn/mask-rcnn_x101-32x4d_fpn_1x_coco",
    "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco",
    "hrnet/mask-rcnn_hrnetv2p-w18-1x_coco",
    "res2net/faster-rcnn_res2net-101_fpn_2x_coco",
    "resnest/faster-rcnn_s50_fpn_syncbn-backbone+head_ms-range-1x_coco",
    "regnet/mask-rcnn_regnetx-3.2GF_fpn_1x_coco",
    "pafpn/faster-rcnn_r50_pafpn_1x_coco",
    "nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco",
    "libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco",
    "double_heads/dh-faster-rcnn_r50_fpn_1x_coco",
    "dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco",
    "grid_rcnn/grid-rcnn_r50_fpn_gn-head_1x_coco",
    "point_rend/point-rend_r50-caffe_fpn_ms-1x_coco",
    "ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco",
    "htc/htc-without-semantic_r50_fpn_1x_coco",
    "sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco",
    "detectors/cascade-rcnn_r50-rfp_1x_coco",
    "retinanet/retinanet_r50_fpn_1x_coco",
    "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco",
    "atss/atss_r50_fpn_1x_coco",
    "gfl/gfl_r50_fpn_1x_coco",
    "tood/tood_r50_fpn_1x_coco",
    "vfnet/vfnet_r50_fpn_1x_coco",
    "foveabox/fovea_r50_fpn_4xb4-1x_coco",
    "free_anchor/freeanchor_r50_fpn_1x_coco",
    "reppoints/reppoints-moment_r50_fpn_1x_coco",
    "sabl/sabl-retinanet_r50_fpn_1x_coco",
    "paa/paa_r50_fpn_1x_coco",
    "yolact/yolact_r50_1xb8-55e_coco",
    "solo/solo_r50_fpn_1x_coco",
    "solov2/solov2_r50_fpn_1x_coco",
    "condinst/condinst_r50_fpn_ms-poly-90k_coco_instance",
    "yolo/yolov3_d53_8xb8-ms-608-273e_coco",
    "yolo/yolov3_mobilenetv2_8xb24-ms-416-300e_coco",
    "yolox/yolox_s_8xb8-300e_coco",
    "rtmdet/rtmdet_tiny_8xb32-300e_coco",
    "rtmdet/rtmdet-ins_tiny_8xb32-300e_coco",
    "ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco",
    "efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco",
    "detr/detr_r50_8xb2-150e_coco",
    "deformable_detr/deformable-detr_r50_16xb2-50e_coco",
    "dino/dino-4scale_r50_8xb2-12e_coco",
    "panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco",
    "mask2former/mask2former_r50_8xb2-lsj-50e_coco",
)
MMSEG = (
    "fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024",
    "pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024",
    "deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024",
    "upernet/upernet_r50_4xb2-40k_cityscapes-512x1024",
    "hrnet/fcn_hr18_4xb2-40k_cityscapes-512x1024",
    "mobilenet_v2/mobilenet-v2-d8_fcn_4xb2-80k_cityscapes-512x1024",
    "unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024",
    "sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024",
    "resnest/resnest_s101-d8_fcn_4xb2-80k_cityscapes-512x1024",
    "ocrnet/ocrnet_hr18_4xb2-40k_cityscapes-512x1024",
)


def accepts_conv_cfg(kind: Any) -> bool:
    """Whether a component's constructor, or one that its ``**kwargs`` go to, takes conv_cfg."""
    if getattr(kind, "__name__", None) in READ_WEIGHTS:
        return False
    for base in inspect.getmro(kind) if inspect.isclass(kind) else ():
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        for parameter in parameters:
            if parameter.name == "conv_cfg":
                # Not a head over points, whose convolutions are one-dimensional.
                return parameter.default != dict(type="Conv1d")
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return False
    return False


def put(model: Any, operator: str, path: str = "") -> list[str]:
    """Set every conv_cfg that is plain; return the dotted names of the components that have one."""
    components = []
    if isinstance(model, dict):
        kind = model.get("type")
        if isinstance(kind, str):
            with MODELS.switch_scope_and_registry(None) as registry:
                kind = registry.get(kind)
        present = (model.get("conv_cfg") or {}).get("type", "Conv2d")
        if accepts_conv_cfg(kind) and present in ("Conv2d", "Conv"):
            model["conv_cfg"] = None if operator == PLAIN else dict(type=operator)
            components.append(path)
        items = model.items()
    elif isinstance(model, (list, tuple)):
        items = enumerate(model)
    else:
        return components
    for key, value in list(items):
        if key not in ("train_cfg", "test_cfg", "init_cfg"):
            components += put(value, operator, f"{path}.{key}".lstrip("."))
    return components


def load(scope: str, name: str) -> Config:
    """A shipped config, without checkpoints to download."""
    init_default_scope(scope)
    cfg = Config.fromfile(Path(get_installed_path(scope)) / ".mim" / "configs" / f"{name}.py")
    cli.forget_checkpoints(cfg.model)
    return cfg


def reach(only: str) -> None:
    """Print, by component, what conv_cfg reaches in the configs."""
    # DRConv replaces convolutions of every size and kind.
    rows: dict[tuple[str, str], tuple[int, int, set[str]]] = {}
    for scope, configs in (("mmdet", MMDET), ("mmseg", MMSEG)):
        for name in configs:
            if only not in name:
                continue
            cfg = load(scope, name)
            put(cfg.model, "DRConv")
            model = MODELS.build(cfg.model)
            parts = [
                child
                for parent in (model, getattr(model, "roi_head", nn.Module()))
                for key, child in parent.named_children()
                if key not in ("data_preprocessor", "roi_head") and "extractor" not in key
            ]
            for part in parts:
                components = part if isinstance(part, nn.ModuleList) else [part]
                for component in components:
                    reached, left, plain = 0, 0, set()
                    for path, module in component.named_modules():
                        if isinstance(module, LearnableConv):
                            reached += 1
                        elif isinstance(module, nn.modules.conv._ConvNd):
                            left += 1
                            plain.add(re.sub(r"\d+", "*", path))
                    if reached + left:
                        key = (scope, type(component).__name__)
                        if key not in rows or reached > rows[key][0]:
                            rows[key] = (reached, left, plain)
    print("| toolbox | component | reached | left plain | the plain ones |")
    print("| --- | --- | --- | --- | --- |")
    for (scope, kind), (reached, left, plain) in sorted(rows.items()):
        listed = ", ".join(f"`{p}`" for p in sorted(plain)[:4]) + (
            ", ..." if len(plain) > 4 else ""
        )
        print(f"| {scope} | `{kind}` | {reached} | {left} | {listed} |")


def check(scope: str, name: str, operator: str, size: int = 128) -> tuple[str, str, list[str]]:
    """Letters of the steps that worked, the failure's message, and the components changed."""
    cfg = load(scope, name)
    size = max(size, LEAST_SIZE.get(name, 0))
    if scope == "mmseg":
        # Else images are padded to the crop of the recipe.
        cfg.model.data_preprocessor.size = (size, size)
        cfg.model.test_cfg = dict(mode="whole")
    for augment in cfg.model.data_preprocessor.get("batch_augments") or []:
        if augment.type == "BatchFixedSizePad":
            augment.size = (size, size)
    components = put(cfg.model, operator)
    done = ""
    # Set by the Runner, for components that change with the iteration.
    MessageHub.get_current_instance().update_info_dict(dict(iter=0, epoch=0, max_iters=1))
    try:
        torch.manual_seed(0)
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
        model.init_weights()
        kind = nn.Conv2d if operator == PLAIN else LearnableConv
        layers = [m for m in model.modules() if isinstance(m, kind)]
        if not layers:
            return done, "no convolution was replaced", components
        done += "B"
        model.train()
        data = cli.random_inputs(model, cfg, (size, size), True, images=2)
        losses = model(**data, mode="loss")
        total, _ = model.parse_losses(losses)
        total.backward()
        bad = [
            n
            for n, p in model.named_parameters()
            if p.grad is not None and not p.grad.isfinite().all()
        ]
        if bad or not total.isfinite():
            return done, f"not finite: {bad[:3] or total}", components
        if all(p.grad is None for layer in layers for p in layer.parameters()):
            return done, "no layer got a gradient", components
        done += "T"
        model.eval()
        with torch.no_grad():
            data = cli.random_inputs(model, cfg, (size, size), False)
            model(**data, mode="predict")
        done += "P"
        backbone = model.backbone if hasattr(model, "backbone") else model
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            backbone(torch.zeros(1, 3, size, size))
        if not counter.get_total_flops():
            return done, "no multiply-adds counted", components
        done += "F"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        words = " ".join(str(error).split())[:200]
        return (
            done,
            f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {words}",
            components,
        )
    return done, "", components


@cli.one_sentence
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="configs whose name contains this")
    known = operator_names(baselines=False, takes_over=False)
    parser.add_argument("--operators", nargs="+", default=known, help="types for conv_cfg")
    parser.add_argument("--size", type=int, default=128, help="side of the images")
    parser.add_argument("--reach", action="store_true", help="print what conv_cfg reaches")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    MMLogger.get_instance("sweep", log_level="ERROR")
    if args.reach:
        reach(args.only)
        return
    failures, explained = [], []
    print(f"{'config':70}" + "".join(f"{op:>8}" for op in args.operators), flush=True)
    for scope, configs in (("mmdet", MMDET), ("mmseg", MMSEG)):
        for name in configs:
            if args.only not in name:
                continue
            row = f"{name:70}"
            for operator in args.operators:
                gc.collect()  # Models hold cycles, and large ones add up.
                done, failure, places = check(scope, name, operator, args.size)
                row += f"{done or '-':>8}"
                if failure:
                    too = check(scope, name, PLAIN, args.size)[:2] == (done, failure)
                    (explained if too else failures).append((name, operator, failure))
            print(f"{row}  {', '.join(places)}", flush=True)
    for name, operator, failure in failures:
        print(f"{name} with {operator}: {failure}")
    for name, operator, failure in explained:
        print(f"{name} with {operator}, as with plain convolutions: {failure}")
    print(f"{len(failures)} failures, {len(explained)} more that plain convolutions share")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
