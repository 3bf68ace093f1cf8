"""Backbones and necks of the papers that mmdet and mmseg lack."""

from .alexnet import AlexNet
from .convnext import ConvNeXt
from .folded_config import folded_config, without_learnable
from .fpn import LearnableFPN
from .mobilenet_v1 import MobileNetV1
from .resnet_dw import ResNetDW
from .shufflenet_v2 import DetNASNet, ShuffleNetV2
from .swap_conv import SwapConv
from .two_branch import TwoBranchHead, TwoBranchNet

__all__ = [
    "AlexNet",
    "ConvNeXt",
    "DetNASNet",
    "LearnableFPN",
    "MobileNetV1",
    "ResNetDW",
    "ShuffleNetV2",
    "SwapConv",
    "TwoBranchHead",
    "TwoBranchNet",
    "folded_config",
    "without_learnable",
]
