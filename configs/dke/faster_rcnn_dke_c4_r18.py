"""Faster R-CNN, ResNet-18 with differentiable kernel evolution, COCO (DKE, table 3).

In the last 12 convolutions of 3x3, as the paper has them. From plain pretrained weights it
starts on the grid with a sharp Gaussian, else as the paper does.
"""

_base_ = "./faster_rcnn_c4_r18.py"
_conv = dict(type="DKE")
model = dict(
    type="SwapConv",
    target="FasterRCNN",
    swaps=[
        dict(pattern="backbone.layer[23].*.conv[12]", conv=_conv),
        dict(pattern="roi_head.shared_head.layer4.*.conv[12]", conv=_conv),
    ],
)
