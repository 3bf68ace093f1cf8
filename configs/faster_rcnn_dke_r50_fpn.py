"""Faster R-CNN FPN, ResNet-50 with differentiable kernel evolution, COCO (DKE, table 3).

The paper replaces the last 12 convolutions of ResNet-18 and 30 of ResNet-101 and does not say how
many of ResNet-50's: the 3x3 convolutions of its last two stages are ours, as is the schedule. A
swap starts at the pretrained network, on the grid with a sharp Gaussian.
Nothing is downloaded. Weights: --cfg-options model.backbone.init_cfg.type=Pretrained
model.backbone.init_cfg.checkpoint=torchvision://resnet50, or a file; plain ones load.
"""

_base_ = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
model = dict(
    type="SwapConv",
    target="FasterRCNN",
    swaps=[dict(pattern="backbone.layer[34].*.conv2", conv=dict(type="DKE"))],
    backbone=dict(init_cfg=dict(_delete_=True)),
)
optim_wrapper = dict(constructor="LearnableConvOptimWrapperConstructor")
