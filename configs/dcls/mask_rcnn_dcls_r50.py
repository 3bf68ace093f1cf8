"""Mask R-CNN with DCLS in place of its ResNet-50's 3x3 convolutions, layer by layer: `SwapConv`.

An element for each cell of the replaced kernels, so that plain weights, the backbone's or the
whole detector's, give the same outputs before training; positions shared by a stage's layers.
Nothing is downloaded. Weights: --cfg-options load_from=FILE for the whole detector, or
model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=torchvision://resnet50.
"""

_base_ = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
model = dict(
    type="SwapConv",
    target="MaskRCNN",
    swaps=[
        dict(
            pattern="backbone.layer*.conv2",
            conv=dict(type="DCLS"),
            share_positions=True,
        )
    ],
    backbone=dict(init_cfg=dict(_delete_=True)),
)
optim_wrapper = dict(constructor="LearnableConvOptimWrapperConstructor")
