"""A fast part of the sweep over shipped configs: every operator, every family of components."""

import pytest

from tests.conftest import mostly_long
from tools.sweep_conv_cfg import accepts_conv_cfg, check

pytestmark = pytest.mark.slow

PAIRS = [
    ("mmdet", "faster_rcnn/faster-rcnn_r50_fpn_1x_coco", "DCLS"),
    ("mmdet", "retinanet/retinanet_r50_fpn_1x_coco", "DRConv"),
    ("mmdet", "yolo/yolov3_mobilenetv2_8xb24-ms-416-300e_coco", "DK"),
    ("mmdet", "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco", "DKE"),
    ("mmdet", "rtmdet/rtmdet-ins_tiny_8xb32-300e_coco", "CoC"),
    ("mmdet", "detr/detr_r50_8xb2-150e_coco", "DK"),
    ("mmseg", "fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024", "DCLS"),
    ("mmseg", "unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024", "DRConv"),
    ("mmseg", "mobilenet_v2/mobilenet-v2-d8_fcn_4xb2-80k_cityscapes-512x1024", "CondConv"),
]


@pytest.mark.parametrize(
    ("scope", "name", "operator"),
    mostly_long(PAIRS, *(pair for pair in PAIRS if pair[2] in ("CoC", "DK", "DRConv"))),
    ids=lambda v: v.split("/")[-1],
)
def test_builds_trains_predicts_and_is_counted(scope, name, operator):
    done, failure, places = check(scope, name, operator, size=64)
    assert (done, failure) == ("BTPF", "")
    assert places


def test_conv_cfg_is_found_behind_keyword_arguments():
    from mmdet.models import ResNeXt, RPNHead

    assert accepts_conv_cfg(ResNeXt)
    assert not accepts_conv_cfg(RPNHead)
