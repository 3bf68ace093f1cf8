"""Bounds of positions, held after every optimizer step unless told."""

import copy
import pickle

import pytest
import torch
from torch import nn

from mmlearnconv.catalog import operator_names, operator_of
from mmlearnconv.layers import LearnableConv, bounds, clamp_after_steps, clamp_parameters
from tests.layers.contract import captured

BOUNDED = pytest.mark.parametrize(
    "name", [name for name in operator_names() if operator_of(name).build(2, 2, 3).bounded_shapes]
)


def far(name):
    """A layer whose positions lie far out, and an optimizer that leaves them there."""
    layer = operator_of(name).build(2, 2, 3)
    layer.positions.data.fill_(100.0)
    layer.positions.grad = torch.zeros_like(layer.positions)
    return layer, torch.optim.SGD(layer.parameters(), lr=0.1)


@BOUNDED
@pytest.mark.parametrize("twin", [None, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_they_hold_after_a_step_of_any_optimizer(name, twin):
    layer, optimizer = far(name)
    if twin is not None:
        layer = twin(layer)
        layer.positions.grad = torch.zeros_like(layer.positions)
        optimizer = torch.optim.AdamW(layer.parameters())
    optimizer.step()
    assert layer.positions.max() <= 4


@BOUNDED
def test_they_are_left_to_a_loop_of_one_s_own(name):
    clamp_after_steps(False)
    try:
        layer, optimizer = far(name)
        optimizer.step()
        assert layer.positions.max() == 100
        clamp_parameters(nn.Sequential(layer))
        assert layer.positions.max() <= 4
    finally:
        clamp_after_steps()
    layer, optimizer = far(name)
    optimizer.step()
    assert layer.positions.max() <= 4


def test_layers_without_bounds_are_not_watched():
    layer = operator_of("CoC").build(2, 8, 3)
    assert isinstance(layer, LearnableConv)
    assert layer not in bounds._hook.layers


@BOUNDED
def test_flattened_positions_are_noticed_and_said_once(name, monkeypatch):
    """As FullyShardedDataParallel does: a view of one flat parameter, or a shard of it."""
    monkeypatch.setattr(bounds._hook, "warned_of_flattened", False)
    layer, _ = far(name)
    flat = nn.Parameter(layer.positions.data.flatten())
    shape = layer.positions.shape
    del layer.positions
    layer.positions = flat.view(shape)
    flat.grad = torch.zeros_like(flat)
    optimizer = torch.optim.SGD([flat, *layer.parameters()], lr=0.1)
    said = captured(lambda: (optimizer.step(), optimizer.step()))
    assert len(said) == 1
    assert "positions cannot be kept in bounds" in said[0]


def test_shared_positions_are_not_taken_for_flattened_ones(monkeypatch):
    monkeypatch.setattr(bounds._hook, "warned_of_flattened", False)
    owner, user = (operator_of("DCLS").build(2, 2, 3) for _ in range(2))
    user.share_positions(owner)
    optimizer = torch.optim.SGD([*owner.parameters(), *user.parameters()], lr=0.1)
    for parameter in (*owner.parameters(), *user.parameters()):
        parameter.grad = torch.zeros_like(parameter)
    assert not any("bounds" in text for text in captured(optimizer.step))
