"""ResNet-50, ImageNet (DCLS, table 1: the base network).

From the paper: procedure A3 of Wightman et al. (ResNet strikes back), as mmpretrain has it,
which crops 224 pixels where that procedure has 160.
"""

_base_ = "mmpretrain::resnet/resnet50_8xb256-rsb-a3-100e_in1k.py"
