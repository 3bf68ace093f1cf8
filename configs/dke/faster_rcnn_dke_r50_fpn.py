"""Faster R-CNN FPN, ResNet-50 with differentiable kernel evolution, COCO (DKE, table 3).

In the 3x3 convolutions of its last three stages, as the paper's 30 of ResNet-101. From plain
pretrained weights it starts on the grid with a sharp Gaussian, else as the paper does.
Nothing is downloaded. Weights: --cfg-options model.backbone.init_cfg.type=Pretrained
model.backbone.init_cfg.checkpoint=torchvision://resnet50, or a file; plain ones load.
"""

_base_ = "./faster_rcnn_r50_fpn.py"
model = dict(
    type="SwapConv",
    target="FasterRCNN",
    swaps=[dict(pattern="backbone.layer[234].*.conv2", conv=dict(type="DKE"))],
)
