"""Mask R-CNN, HRNet-w18 with CoC and orthonormal kernels, COCO (CoC, detection table).

The paper's best setting for networks that are not light. Plain weights do not load: their kernels
are not orthonormal; with conv_cfg=dict(type='CoC') they do. The first convolution has CoC alone:
it has more outputs than there are orthonormal kernels of its size.
"""

_base_ = "./mask_rcnn_hrnet_w18.py"
model = dict(
    type="SwapConv",
    target="MaskRCNN",
    swaps=[
        dict(pattern="backbone.conv1", conv=dict(type="CoC")),
        dict(pattern="backbone.*", kernel_size=3, conv=dict(type="CoC", normalize="orthogonalize")),
    ],
)
