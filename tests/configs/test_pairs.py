"""A checkpoint of each paper's classifier sets all of the backbone of the paper's detector."""

from unittest.mock import patch

import pytest
import torch

from tests import libraries
from tests.conftest import config_path, mostly_long
from tests.processes import call

DK = "local", "global", "local_1x1", "global_1x1", "condconv", "dcn"
PAIRS = [
    *(
        (f"convnext_{size}{dcls}_in1k", detector.format(f"{dcls.strip('_')}_convnext_{size}"))
        for size in "tsb"
        for dcls in ("", "_dcls")
        for detector in ("cascade_mask_rcnn_{}", "upernet_{}")
    ),
    ("convnext_t_dcls_in1k", "mask_rcnn_dcls_convnext_t"),
    *(
        (f"{network}_dk_{form}_in1k", f"faster_rcnn_dk_{form}_{detector}")
        for network, detector in (("resnet50dw", "r50dw"), ("mobilenetv2", "mobilenetv2"))
        for form in DK
    ),
    *(
        (f"{network}{form}_in1k", f"faster_rcnn{form}_{detector}")
        for network, detector in (("resnet50dw", "r50dw"), ("mobilenetv2", "mobilenetv2"))
        for form in ("", "_condconv", "_dcn")
    ),
    ("resnet50_dke_in1k", "faster_rcnn_dke_r50_fpn"),
    ("resnet50_in1k", "faster_rcnn_r50_fpn"),
    ("resnet50_plain_in1k", "retinanet_r50"),
    *(
        (f"resnet50_{form}_in1k", f"retinanet_{form}_r50")
        for form in ("coc", "coc_orth", "convorth", "convstnd")
    ),
    ("detnas_300m_in1k", "faster_rcnn_detnas_300m"),
    ("detnas_300m_drconv_in1k", "faster_rcnn_drconv_detnas_300m"),
]
PAIRS = [(one, other.replace("__", "_")) for one, other in PAIRS]


def backbone_of(name):
    from mmengine.registry import init_default_scope

    from mmlearnconv import cli
    from mmlearnconv.registry import MODELS

    cfg = cli.read_config(config_path(name))
    init_default_scope(cfg.default_scope)
    # The values do not matter.
    undrawn = dict.fromkeys(["uniform_", "normal_"], lambda tensor, *_, **__: tensor)
    with patch.multiple(torch.Tensor, **undrawn):
        return MODELS.build(cfg.model).backbone


def assert_all_is_set(classifier, detector, folder):
    """To be run in a process that may import what it likes."""
    libraries.find()
    from mmlearnconv.engine import CheckedPretrainedInit

    torch.manual_seed(0)
    trained = backbone_of(classifier).state_dict()
    path = f"{folder}/epoch_1.pth"
    state = {
        f"backbone.{k}": torch.full_like(v, i % 97) for i, (k, v) in enumerate(trained.items())
    }
    torch.save(dict(meta={}, state_dict=state, message_hub={}), path)
    backbone = backbone_of(detector)
    for value in backbone.state_dict().values():
        value.fill_(-1)
    CheckedPretrainedInit(path, prefix="backbone.")(backbone)
    unset = [k for k, v in backbone.state_dict().items() if not (v >= 0).all()]
    # A detector has a norm after each of ConvNeXt's stages, a classifier after the last.
    unset = [k for k in unset if not k.startswith(("norm0.", "norm1.", "norm2."))]
    assert not unset, unset
    used = {v.flatten()[0].item() for v in backbone.state_dict().values()}
    assert len(used) > 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classifier", "detector"),
    mostly_long(
        PAIRS,
        ("convnext_t_dcls_in1k", "upernet_dcls_convnext_t"),
        ("mobilenetv2_dk_local_in1k", "faster_rcnn_dk_local_mobilenetv2"),
        ("resnet50_coc_in1k", "retinanet_coc_r50"),
        ("detnas_300m_drconv_in1k", "faster_rcnn_drconv_detnas_300m"),
        ("resnet50_dke_in1k", "faster_rcnn_dke_r50_fpn"),
    ),
)
def test_a_classifier_sets_all_of_the_detector_s_backbone(classifier, detector, tmp_path):
    libraries.need()
    call(assert_all_is_set, classifier, detector, str(tmp_path))
