"""DetNAS-300M, ImageNet: the backbone of faster_rcnn_detnas_300m.

The paper starts its detectors from such weights and gives neither their recipe nor their accuracy.
"""

_base_ = "../_base_/imagenet_drconv.py"
model = dict(
    backbone=dict(type="DetNASNet", out_indices=(3,)),
    head=dict(in_channels=640),
)
