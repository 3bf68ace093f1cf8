"""Mask R-CNN, HRNet-w18 with orthonormal kernels, COCO (CoC, detection table).

Plain weights do not load: their kernels are not orthonormal. The first convolution is
plain: it has more outputs than there are orthonormal kernels of its size.
"""

_base_ = "./mask_rcnn_hrnet_w18.py"
model = dict(
    type="SwapConv",
    target="MaskRCNN",
    swaps=[
        dict(
            pattern="backbone.*",
            kernel_size=3,
            exclude="backbone.conv1",
            conv=dict(type="ConvOrth"),
        )
    ],
)
