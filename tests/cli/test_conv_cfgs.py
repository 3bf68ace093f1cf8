import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmlearnconv.cli.conv_cfgs import check_conv_cfg_used
from mmlearnconv.models import folded_config
from mmlearnconv.surgery import fold_convs
from tests.conftest import config_path


def detector():
    """The quickstart's, whose backbone has a ``conv_cfg``."""
    init_default_scope("mmdet")
    return Config.fromfile(config_path("quickstart_mask_rcnn_dcls"))


def test_a_folded_model_has_no_layer_of_its_conv_cfg():
    cfg = detector()
    model = MODELS.build(cfg.model)
    check_conv_cfg_used(cfg, model)
    with pytest.raises(ValueError, match="ResNet builds no layer of it"):
        check_conv_cfg_used(cfg, fold_convs(model))
    folded, _ = folded_config(cfg, fold_convs(model))
    check_conv_cfg_used(folded, MODELS.build(folded.model))


def test_the_advice_names_the_model_that_is_swapped():
    cfg = detector()
    cfg.model.update(type="SwapConv", target="MaskRCNN", swaps=[])
    model = fold_convs(MODELS.build(detector().model))
    with pytest.raises(ValueError, match="target='MaskRCNN'"):
        check_conv_cfg_used(cfg, model)
