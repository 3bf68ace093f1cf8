"""UPerNet, plain ConvNeXt-S, ADE20K, 512x512, 160k iterations. Published: mIoU 48.7."""

_base_ = "./upernet_dcls_convnext_s.py"
model = dict(backbone=dict(conv_cfg=None))
