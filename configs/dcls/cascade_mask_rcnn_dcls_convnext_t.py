"""Cascade Mask R-CNN, ConvNeXt-T-DCLS, FPN, COCO, 36 epochs. Published: box AP 51.2, mask AP 44.5.

The box heads are ConvNeXt's: four convolutions with BatchNorm and one linear layer, GIoU loss.
"""

_base_ = ["../_base_/cascade_mask_rcnn_convnext.py", "../_base_/convnext_dcls_t.py"]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=[96, 192, 384, 768]))
