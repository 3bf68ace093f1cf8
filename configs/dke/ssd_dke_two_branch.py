"""The two-branch detector with DKE in its branches, to see which kernels grow (DKE, section 7)."""

_base_ = "./ssd_two_branch.py"
model = dict(backbone=dict(branch_conv_cfg=dict(type="DKE", position_init="grid")))
