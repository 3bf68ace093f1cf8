"""FCN, HRNet-w18 with CoC and orthonormal kernels, PASCAL VOC 2012 (CoC, segmentation table).

The paper's best setting for networks that are not light. Plain weights do not load: their kernels
are not orthonormal; with conv_cfg=dict(type='CoC') they do. The first convolution has CoC alone:
it has more outputs than there are orthonormal kernels of its size.
"""

_base_ = "./fcn_hrnet_w18.py"
model = dict(
    type="SwapConv",
    target="EncoderDecoder",
    swaps=[
        dict(pattern="backbone.conv1", conv=dict(type="CoC")),
        dict(pattern="backbone.*", kernel_size=3, conv=dict(type="CoC", normalize="orthogonalize")),
    ],
)
