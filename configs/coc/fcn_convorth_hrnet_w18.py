"""FCN, HRNet-w18 with orthonormal kernels, PASCAL VOC 2012 (CoC, segmentation table).

Plain weights do not load: their kernels are not orthonormal. The first convolution is
plain: it has more outputs than there are orthonormal kernels of its size.
"""

_base_ = "./fcn_hrnet_w18.py"
model = dict(
    type="SwapConv",
    target="EncoderDecoder",
    swaps=[
        dict(
            pattern="backbone.*",
            kernel_size=3,
            exclude="backbone.conv1",
            conv=dict(type="ConvOrth"),
        )
    ],
)
