"""The two-branch detector with 5x5 kernels in its branches (as in DKE, table 4)."""

_base_ = "./ssd_two_branch.py"
model = dict(backbone=dict(branch_kernel_size=5))
