"""A run goes on only with the parameters and the groups that it had."""

import copy
import re

import pytest
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmlearnconv.engine import CheckpointError, ResumeCheckHook
from mmlearnconv.layers import DCLSConv2d

OURS, STOCK = "LearnableConvOptimWrapperConstructor", "DefaultOptimWrapperConstructor"


class Runner:
    """What the hook reads of mmengine's."""

    def __init__(self, model, constructor=OURS, **paramwise):
        self.model, self._resume = model, True
        optimizer = dict(type="AdamW", lr=0.1)
        cfg = dict(optimizer=optimizer, constructor=constructor, paramwise_cfg=paramwise or None)
        self.optim_wrapper = build_optim_wrapper(model, cfg)

    def checkpoint(self):
        optimizer = self.optim_wrapper.state_dict()
        saved = dict(meta={}, state_dict=self.model.state_dict(), optimizer=optimizer)
        ResumeCheckHook().before_save_checkpoint(self, saved)
        return copy.deepcopy(saved)


def network(**options):
    return nn.Sequential(DCLSConv2d(2, 4, 3, **options), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))


def resume(runner, checkpoint, named=True):
    if not named:
        del checkpoint["meta"]["param_names"]
    ResumeCheckHook().after_load_checkpoint(runner, checkpoint)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("constructor", [OURS, STOCK])
def test_the_same_run_goes_on(constructor, named):
    resume(Runner(network(), constructor), Runner(network(), constructor).checkpoint(), named)


@pytest.mark.parametrize("named", [True, False])
def test_another_constructor_is_named(named):
    saved = Runner(network(), OURS).checkpoint()
    groups = [len(group["params"]) for group in saved["optimizer"]["param_groups"]]
    assert sum(groups) == 7
    with pytest.raises(CheckpointError, match=f"had {re.escape(str(groups))} .* have \\[7\\]"):
        resume(Runner(network(), STOCK), saved, named)


def test_groups_of_equal_sizes_are_told_apart():
    """PyTorch matches them by place, and the state of one parameter goes to another."""
    first, second = (Runner(network(), STOCK) for _ in range(2))
    parameters = second.optim_wrapper.optimizer.param_groups[0]["params"]
    parameters[0], parameters[1] = parameters[1], parameters[0]
    with pytest.raises(CheckpointError, match=r"0\.\w+ \(and 1 others\) is at another place"):
        resume(second, first.checkpoint())


def test_a_parameter_in_two_groups():
    first, second = (Runner(network(), STOCK) for _ in range(2))
    groups = first.optim_wrapper.optimizer.param_groups
    groups.append(dict(groups[0], params=groups[0]["params"][:1]))
    with pytest.raises(CheckpointError, match=r"had \[7, 1\] parameters and have \[7\]"):
        resume(second, first.checkpoint())


@pytest.mark.parametrize("named", [True, False])
def test_another_layer_is_named(named):
    plain = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    message = r"0\.positions is new" if named else "parameters and have"
    with pytest.raises(CheckpointError, match=f"--resume: .*{message}.*load_from"):
        resume(Runner(network()), Runner(plain).checkpoint(), named)


def test_another_shape_is_named():
    saved = Runner(network(kernel_count=4)).checkpoint()
    with pytest.raises(CheckpointError, match=r"0\.weight was \(4, 2, 4\) and is \(4, 2, 5\)"):
        resume(Runner(network(kernel_count=5)), saved)


def test_weights_alone_may_be_of_another_model():
    runner = Runner(network())
    runner._resume = False
    resume(runner, Runner(nn.Linear(2, 2), STOCK).checkpoint())
