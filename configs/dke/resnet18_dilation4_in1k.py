"""ResNet-18 with dilation 4, ImageNet (DKE, table 4).

In the convolutions that have DKE in resnet18_dke_in1k.
"""

_base_ = "./resnet18_dke_in1k.py"
model = _base_.model
model.swaps[0].conv = dict(type="Conv2d", dilation=4)
