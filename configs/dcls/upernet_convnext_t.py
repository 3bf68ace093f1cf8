"""UPerNet, plain ConvNeXt-T, ADE20K, 512x512, 160k iterations. Published: mIoU 46.0."""

_base_ = "./upernet_dcls_convnext_t.py"
model = dict(backbone=dict(conv_cfg=None))
