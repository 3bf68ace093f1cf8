"""The two-branch detector with dilation 4 in its branches (as in DKE, table 4)."""

_base_ = "./ssd_two_branch.py"
model = dict(backbone=dict(branch_dilation=4))
