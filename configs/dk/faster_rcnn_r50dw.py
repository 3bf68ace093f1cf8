"""Faster R-CNN FPN, ResNet-50-DW, COCO (DK, tables 3 and 4: the base network).

From the paper: the network, weight decay 4e-5. Ours: mmdet's Faster R-CNN and 1x schedule around
it, batch of 16 at 0.02; nothing frozen, since no weights of this network are public.
Weights: --cfg-options model.backbone.init_cfg.type=Pretrained
model.backbone.init_cfg.checkpoint=FILE.
"""

_base_ = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["mmlearnconv"], allow_failed_imports=False)
model = dict(backbone=dict(_delete_=True, type="ResNetDW", depth=50))
optim_wrapper = dict(
    constructor="LearnableConvOptimWrapperConstructor",
    optimizer=dict(weight_decay=4e-5),
)
