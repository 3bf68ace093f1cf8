"""Learning rates and weight decays as parameter groups, for any training loop."""

import pytest
import torch
from torch import nn

from mmlearnconv.layers import DCLSConv2d, DeformableKernelConv2d, parameter_groups


def settings(optimizer, model):
    """Learning rate and weight decay by parameter name; every parameter in exactly one group."""
    names = {p: name for name, p in model.named_parameters()}
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(names)
    return {
        names[p]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }


def settings_of(groups, model, **defaults):
    """:func:`settings`, after PyTorch has taken the groups."""
    return settings(torch.optim.SGD(groups, **defaults), model)


def test_all_parameters_with_the_optimizer_s_own():
    model = nn.Sequential(DCLSConv2d(2, 2, 3, interpolation="gauss"), nn.Conv2d(2, 2, 3))
    groups = parameter_groups(model, lr=0.1, weight_decay=0.05)
    found = settings_of(groups, model, lr=0.1, weight_decay=0.05)
    assert found["0.positions"] == (pytest.approx(0.5), 0)
    assert found["0.width"] == (0.1, 0)
    assert found["0.weight"] == found["1.weight"] == found["1.bias"] == (0.1, 0.05)


def test_groups_of_the_caller_keep_their_order_and_keys():
    """timm's and Transformers' groups: no decay for what has one dimension, names, scales."""
    model = nn.Sequential(DCLSConv2d(2, 2, 3), DeformableKernelConv2d(2, 2, 3))
    flat = [p for p in model.parameters() if p.ndim <= 1]
    rest = [p for p in model.parameters() if p.ndim > 1]
    given = [
        dict(params=flat, weight_decay=0.0, lr_scale=0.5),
        dict(params=iter(rest), weight_decay=0.2, lr=0.01),
    ]
    groups = parameter_groups(model, given, lr=0.1)
    assert [group["params"] for group in groups[:2]] == [
        [p for p in flat if p is not model[1].offset_bias],
        [p for p in rest if p is not model[0].positions and p is not model[1].offset_weight],
    ]
    assert groups[0]["lr_scale"] == 0.5
    found = settings_of(groups, model, lr=0.1)
    assert found["0.positions"] == (pytest.approx(0.05), 0)
    assert found["1.offset_weight"] == (pytest.approx(1e-4), 0.2)
    assert found["1.offset_bias"] == (pytest.approx(1e-3), 0)
    assert found["0.bias"] == (0.1, 0)


def test_frozen_parameters_are_left_out():
    model = DCLSConv2d(2, 2, 3)
    model.positions.requires_grad_(False)
    grouped = [p for group in parameter_groups(model, lr=0.1) for p in group["params"]]
    assert {*grouped} == {model.weight, model.bias}


def test_shared_positions_are_in_one_group_once():
    model = nn.Sequential(DCLSConv2d(2, 2, 3), DCLSConv2d(2, 2, 3))
    model[1].share_positions(model[0])
    found = settings_of(parameter_groups(model, lr=0.1), model, lr=0.1)
    assert found["0.positions"][0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (dict(position=dict(lr_mult=2)), "'position' is not a parameter .* 'positions'"),
        (dict(positions=dict(lr=2)), r"'positions' has \['lr'\]; allowed are lr_mult and"),
    ],
)
def test_a_wrong_policy_is_named(policy, message):
    with pytest.raises(ValueError, match=message):
        parameter_groups(DCLSConv2d(2, 2, 3), lr=0.1, optim_policy=policy)


def test_named_parameters_are_refused():
    """They would pass for parameters without a policy."""
    model = DCLSConv2d(2, 2, 3)
    with pytest.raises(ValueError, match=r"groups: \(name, parameter\) pairs"):
        parameter_groups(model, model.named_parameters(), lr=0.1)


def test_a_policy_of_the_caller_wins():
    model = DCLSConv2d(2, 2, 3)
    policy = {"DCLSConv2d.positions": dict(lr_mult=2.0), "positions": {}}
    found = settings_of(parameter_groups(model, lr=0.1, optim_policy=policy), model, lr=0.1)
    assert found["positions"][0] == pytest.approx(0.2)
    groups = parameter_groups(model, lr=0.1, optim_policy=dict(positions={}))
    found = settings_of(groups, model, lr=0.1)
    assert found["positions"][0] == 0.1
