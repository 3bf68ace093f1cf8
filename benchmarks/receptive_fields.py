"""ConvNeXt-T with 7x7 kernels, with dilation 2, and with DCLS, at random weights and positions.

python tools/receptive_field.py benchmarks.receptive_fields:{convnext,dilated,dcls} --out DIR

Blocks are scaled by 1, as in DCLS's detectors: at the 1e-6 that training starts from they would add
nothing yet.
"""

from torch import nn

from mmlearnconv.models import ConvNeXt


def _build(conv_cfg: dict | None = None) -> ConvNeXt:
    model = ConvNeXt(conv_cfg=conv_cfg, layer_scale_init_value=1.0)
    model.init_weights()
    return model


def convnext() -> nn.Module:
    """Plain 7x7."""
    return _build()


def dilated() -> nn.Module:
    """7x7 with dilation 2: a window of 13x13."""
    model = _build()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (7, 7):
            module.dilation, module.padding = (2, 2), (6, 6)
    return model


def dcls() -> nn.Module:
    """34 elements in windows of 17x17."""
    return _build(dict(type="DCLS"))
