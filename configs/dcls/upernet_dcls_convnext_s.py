"""UPerNet, ConvNeXt-S-DCLS, ADE20K, 512x512, 160k iterations. Published: mIoU 48.4."""

_base_ = "./upernet_dcls_convnext_t.py"
model = dict(backbone=dict(arch="small", drop_path_rate=0.3))
optim_wrapper = dict(paramwise_cfg=dict(num_layers=12))
