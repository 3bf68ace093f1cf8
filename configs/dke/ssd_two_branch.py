"""A shallow detector of persons with a branch for large and one for small ones (DKE, section 7).

COCO's persons stand for the paper's faces; the schedule is ours.
"""

_base_ = [
    "../_base_/two_branch.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
_persons = dict(dataset=dict(metainfo=dict(classes=("person",))))
train_dataloader = _persons
val_dataloader = _persons
test_dataloader = _persons
optim_wrapper = dict(
    constructor="LearnableConvOptimWrapperConstructor", clip_grad=dict(max_norm=35.0)
)
