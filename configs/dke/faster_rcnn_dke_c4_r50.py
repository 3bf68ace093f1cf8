"""Faster R-CNN, ResNet-50 with differentiable kernel evolution, COCO (DKE, table 3).

In the 3x3 convolutions of its last three stages, as the paper's 30 of ResNet-101. From plain
pretrained weights it starts on the grid with a sharp Gaussian, else as the paper does.
"""

_base_ = "./faster_rcnn_c4_r50.py"
_conv = dict(type="DKE")
model = dict(
    type="SwapConv",
    target="FasterRCNN",
    swaps=[
        dict(pattern="backbone.layer[23].*.conv2", conv=_conv),
        dict(pattern="roi_head.shared_head.layer4.*.conv2", conv=_conv),
    ],
)
