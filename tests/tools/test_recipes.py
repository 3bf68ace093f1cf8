"""What the page of recipes promises: modes of training, parameter groups, hooks in the log."""

import math
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from mmlearnconv.catalog import operator_names
from tests.conftest import ROOT, mostly_long
from tests.layers.test_policy import settings
from tests.tools.test_command_lines import (
    ONE_PROCESS,
    QUICKSTART,
    another_operator,
    run,
    scalars,
)

pytestmark = pytest.mark.slow

TWENTY_STEPS = [
    "train_cfg.max_iters=20",
    "train_cfg.val_begin=100",
    "param_scheduler.0.end=4",
    "param_scheduler.1.begin=4",
    "param_scheduler.1.end=1000",
    "default_hooks.checkpoint.interval=20",
    "default_hooks.logger.interval=1",
    "train_dataloader.batch_size=2",
    "randomness.seed=0",
    *ONE_PROCESS,
]


def falls(work_dir):
    losses = [line["loss"] for line in scalars(work_dir) if "loss" in line]
    assert len(losses) == 20
    # The log averages over the last steps itself.
    assert losses[-1] < 0.97 * losses[0]


def assert_quickstart_learns(operator, work_dir, *options, arguments=(), hooks=()):
    config = work_dir / "recipe.py"
    config.write_text(f"_base_ = {str(ROOT / QUICKSTART)!r}\ncustom_hooks = {list(hooks)}\n")
    run(
        *("tools/train.py", config, "--work-dir", work_dir, *arguments, "--cfg-options"),
        *(*another_operator(operator), *TWENTY_STEPS, *options),
    )
    falls(work_dir)


@pytest.mark.parametrize(
    "operator", mostly_long(operator_names(baselines=False, takes_over=False), "DCLS")
)
def test_mixed_precision_averages_and_accumulation(operator, tmp_path):
    assert_quickstart_learns(
        operator,
        tmp_path,
        "optim_wrapper.accumulative_counts=2",
        arguments=["--amp"],
        hooks=[dict(type="EMAHook", momentum=0.01, update_buffers=True)],
    )
    saved = torch.load(tmp_path / "iter_20.pth", weights_only=False)
    assert all(torch.isfinite(v).all() for v in saved["ema_state_dict"].values())


@pytest.mark.long
def test_compiled(tmp_path):
    """The graphs that torch.compile makes of the model, run as they are; making them takes long."""
    run(
        *("tools/train.py", QUICKSTART, "--work-dir", tmp_path, "--cfg-options", *TWENTY_STEPS),
        *("compile.backend=eager", "train_cfg.max_iters=3", "train_dataloader.batch_size=1"),
    )
    losses = [line["loss"] for line in scalars(tmp_path) if "loss" in line]
    assert len(losses) == 3
    assert all(map(math.isfinite, losses))


def test_losses_and_figures_are_in_the_log(tmp_path):
    hooks = [
        dict(type="RepulsiveLossHook", begin=10, by_epoch=False),
        dict(type="LearnableConvStatsHook", interval=10),
    ]
    assert_quickstart_learns("DCLS", tmp_path, hooks=hooks)
    lines = [line for line in scalars(tmp_path) if "loss" in line]
    assert ["loss_repulsive" in line for line in lines] == [False] * 10 + [True] * 10
    for name in ("position_step", "positions_at_edge"):
        for stage in (1, 2, 3, 4):
            assert f"{name}/backbone.layer{stage}" in lines[-1]


def test_a_config_without_the_constructor_is_told_once(tmp_path):
    output = run(
        *("tools/train.py", QUICKSTART, "--work-dir", tmp_path, "--cfg-options", *TWENTY_STEPS),
        *("optim_wrapper.constructor=DefaultOptimWrapperConstructor", "train_cfg.max_iters=3"),
    )
    told = re.findall(r"trained without the papers' multipliers .*", output)
    assert len(told) == 1
    assert "DCLSConv2d.positions (lr_mult=5 decay_mult=0)" in told[0]
    assert "constructor='LearnableConvOptimWrapperConstructor'" in told[0]


def test_parameter_groups_are_the_published_recipe_s():
    """Layer-wise decay 0.95 over 6 layers; positions at 5 times their layer's rate, undecayed."""
    cfg = Config.fromfile(ROOT / "configs/mask_rcnn_dcls_convnext_t.py")
    init_default_scope("mmdet")
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    found = settings(optimizer, model)
    shapes = {name: parameter.ndim for name, parameter in model.named_parameters()}
    base, decay = cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.optimizer.weight_decay
    rate = cfg.optim_wrapper.paramwise_cfg.decay_rate
    for name, (lr, weight_decay) in found.items():
        layer = 7  # Neck, heads and the norms of the outputs.
        if match := re.match(r"backbone\.stages\.(\d)\.(\d+)", name):
            stage, block = int(match[1]), int(match[2])
            layer = (1, 2, 3 + block // 3, 6)[stage]
        elif match := re.match(r"backbone\.downsample_layers\.(\d)", name):
            layer = (0, 2, 3, 6)[int(match[1])]
        expected = base * rate ** (7 - layer)
        if name.endswith(".positions"):
            expected *= 5
        assert lr == pytest.approx(expected), name
        undecayed = name.endswith(".positions") or shapes[name] == 1
        assert weight_decay == (0 if undecayed else decay), name
