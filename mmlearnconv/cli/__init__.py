"""What the command lines below ``tools/`` share: arguments, configs, data roots, launchers."""

from .annotations import check_annotations
from .arguments import add_cfg_options, add_trust_option, argument_parser
from .config import (
    draw_predictions,
    dump_predictions,
    load_config,
    read_config,
    use_amp,
    use_auto_scale_lr,
    use_resume,
    use_tta,
)
from .conv_cfgs import explain_refusal
from .data import check_data, set_data_root
from .errors import one_sentence
from .images import Box, distinct, find_boxes, find_images
from .inputs import random_inputs
from .models import build_model, forget_checkpoints
from .run import run

__all__ = [
    "Box",
    "add_cfg_options",
    "add_trust_option",
    "argument_parser",
    "build_model",
    "check_annotations",
    "check_data",
    "distinct",
    "draw_predictions",
    "dump_predictions",
    "explain_refusal",
    "find_boxes",
    "find_images",
    "forget_checkpoints",
    "load_config",
    "one_sentence",
    "random_inputs",
    "read_config",
    "run",
    "set_data_root",
    "use_amp",
    "use_auto_scale_lr",
    "use_resume",
    "use_tta",
]
