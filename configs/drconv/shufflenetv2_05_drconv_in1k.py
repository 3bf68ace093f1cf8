"""ShuffleNetV2 0.5x with dynamic region-aware convolutions, ImageNet (DRConv, table 1).

All 1x1 convolutions of its units, eight regions, one guide per unit, which fits the paper's count.
"""

_base_ = "./shufflenetv2_05_in1k.py"
model = dict(
    backbone=dict(
        pointwise_conv_cfg=dict(type="DRConv", regions=8, base_weight=False),
        share_guide=True,
    )
)
