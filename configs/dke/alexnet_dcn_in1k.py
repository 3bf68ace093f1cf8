"""AlexNet with deformable convolutions, ImageNet (DKE, table 1).

With masks, and without the first layer, which fits the paper's number of parameters.
"""

_base_ = "./alexnet_in1k.py"
model = dict(
    type="SwapConv",
    target="ImageClassifier",
    swaps=[
        dict(regex=r"backbone\.features\.(3|6|8|10)", conv=dict(type="DCNv2", deform_groups=1)),
    ],
)
