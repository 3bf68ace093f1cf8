"""UPerNet, ConvNeXt-B-DCLS, ADE20K, 512x512, 160k iterations. Published: mIoU 49.3."""

_base_ = "./upernet_dcls_convnext_t.py"
model = dict(
    backbone=dict(arch="base", drop_path_rate=0.4),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
optim_wrapper = dict(paramwise_cfg=dict(num_layers=12))
