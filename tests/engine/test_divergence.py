"""A step that ruins a learnable convolution ends the run, by name."""

import re

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmlearnconv.engine import DivergenceError, DivergenceHook
from tests.engine.test_hooks import runner, scalars


@HOOKS.register_module()
class BadStep(Hook):
    """Gives parameters a gradient with one bad value in one iteration."""

    def __init__(self, names, iteration, value):
        self.names, self.iteration, self.value = names, iteration, value

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 != self.iteration:
            return
        for name in self.names:
            handle = runner.model.get_parameter(name).register_hook(
                lambda grad: torch.cat(
                    [torch.full((1,), float(self.value)), grad.flatten()[1:]]
                ).view_as(grad)
            )
            self.handles = [*getattr(self, "handles", []), handle]


def run_with(tmp_path, names, value="nan", iteration=5):
    run = runner(
        tmp_path,
        [dict(type="BadStep", names=names, iteration=iteration, value=value)],
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=1),
            checkpoint=dict(type="CheckpointHook", interval=1, by_epoch=False),
        ),
    )
    run.register_hook(DivergenceHook())
    return run


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("stages.0.1.positions", "DCLSConv2d"),
        ("stages.0.0.weight", "DCLSConv2d"),
        ("stages.1.0.positions", "DKEConv2d"),
        ("neck.0.weight", "CoCConv2d"),
        ("head.guide_weight", "DRConv2d"),
    ],
)
def test_the_layer_the_parameter_and_the_iteration_are_named(tmp_path, name, kind):
    run = run_with(tmp_path, [name])
    with pytest.raises(DivergenceError) as raised:
        run.train()
    said = str(raised.value)
    values = f"(1 of {run.model.get_parameter(name).numel()} values)"
    assert said.startswith(f"iteration 5 made NaN or infinite: {name} of {kind} {values}. Lower")
    assert "clip_grad" in said
    # The last checkpoint is that before the step, and whole.
    saved = sorted(path.name for path in tmp_path.glob("*.pth"))
    assert saved[-1] == "iter_4.pth"
    state = torch.load(tmp_path / saved[-1], weights_only=False)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())


def test_many_parameters_are_counted(tmp_path):
    names = [f"stages.0.{i}.{name}" for i in (0, 1) for name in ("positions", "weight", "bias")]
    with pytest.raises(DivergenceError, match=r" and 2 more parameters\. Lower") as raised:
        run_with(tmp_path, names).train()
    assert len(re.findall(r"\(1 of \d+ values\)", str(raised.value))) == 4


def test_a_run_without_bad_steps_ends(tmp_path):
    run_with(tmp_path, [], iteration=0).train()
    assert sum("loss" in line for line in scalars(tmp_path)) == 9


def test_frozen_parameters_and_models_without_operators_are_left_alone(tmp_path):
    run = runner(tmp_path)
    run.register_hook(DivergenceHook())
    for parameter in run.model.neck.parameters():
        parameter.requires_grad_(False)
    run.train()
    (hook,) = (h for h in run.hooks if isinstance(h, DivergenceHook))
    assert hook._parameters
    assert not any(name.startswith("neck.") for name in hook._parameters)


def test_large_values_are_no_bad_ones(tmp_path):
    """Their sum is infinite."""
    run = runner(tmp_path, train_cfg=dict(by_epoch=True, max_epochs=1))
    hook = DivergenceHook()
    hook.before_train(run)
    run.model.stages[0][0].bias.data.fill_(3e38)
    hook.after_train_iter(run, 0)
    run.model.stages[0][0].bias.data[0] = float("inf")
    with pytest.raises(DivergenceError, match=r"stages.0.0.bias of DCLSConv2d \(1 of"):
        hook.after_train_iter(run, 0)
