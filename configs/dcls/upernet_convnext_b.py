"""UPerNet, plain ConvNeXt-B, ADE20K, 512x512, 160k iterations. Published: mIoU 49.1."""

_base_ = "./upernet_dcls_convnext_b.py"
model = dict(backbone=dict(conv_cfg=None))
