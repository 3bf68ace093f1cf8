import json
import math

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmlearnconv.engine import (
    AlphaAnnealingHook,
    LearnableConvStatsHook,
    OrthogonalityLossHook,
    RepulsiveLossHook,
    ReseedHook,
)
from mmlearnconv.layers import CoCConv2d, DCLSConv2d, DKEConv2d, DRConv2d
from mmlearnconv.ops import orthogonality, repulsion


@DATASETS.register_module()
class HookTestImages(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        # What an augmentation draws.
        return dict(inputs=torch.full((3, 8, 8), float(index)) + torch.rand(1))


@MODELS.register_module()
class HookTestModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(
            [
                nn.Sequential(DCLSConv2d(3, 8, 3, padding=1), DCLSConv2d(8, 8, 3, padding=1)),
                nn.Sequential(DKEConv2d(8, 8, 3, padding=1), nn.Dropout(0.5)),
            ]
        )
        self.neck = nn.ModuleList([CoCConv2d(8, 8, 3, padding=1)])
        self.head = DRConv2d(8, 4, 1, regions=4)

    def forward(self, inputs, mode="tensor"):
        x = inputs / 6
        for stage in self.stages:
            x = stage(x)
        x = self.head(self.neck[0](x))
        return dict(loss_map=x.square().mean()) if mode == "loss" else x


def runner(work_dir, hooks=(), **options):
    config = dict(
        model=dict(type="HookTestModel"),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=dict(type="HookTestImages"),
            sampler=dict(type="DefaultSampler", shuffle=True),
            batch_size=2,
            num_workers=0,
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=3),
        optim_wrapper=dict(
            constructor="LearnableConvOptimWrapperConstructor",
            optimizer=dict(type="AdamW", lr=0.01),
        ),
        default_hooks=dict(logger=dict(type="LoggerHook", interval=1)),
        custom_hooks=list(hooks),
        default_scope="mmengine",
        randomness=dict(seed=5),
        experiment_name=str(abs(hash(str(work_dir)))),
    )
    torch.manual_seed(0)
    return Runner.from_cfg(Config(config | options))


def scalars(work_dir):
    (path,) = work_dir.glob("*/vis_data/scalars.json")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_losses_on_parameters_are_logged_and_trained_from_their_epoch(tmp_path):
    hooks = [
        dict(type="RepulsiveLossHook", weight=3.0, radius=2.0, begin=1),
        dict(type="OrthogonalityLossHook", weight=2.0, begin=4, by_epoch=False),
    ]
    run = runner(tmp_path, hooks)
    seen = []
    run.model.register_forward_pre_hook(
        lambda model, args: seen.append(
            (
                torch.stack([repulsion(c.positions, 2.0) for c in model.stages[0]]).mean() ** 2 * 3,
                orthogonality(model.neck[0].dense_kernel()) * 2,
            )
        )
    )
    run.train()
    lines = [line for line in scalars(tmp_path) if "loss" in line]
    assert len(lines) == 9
    for number, line in enumerate(lines):
        assert ("loss_repulsive" in line) == (number >= 3)
    # The log prints the last value of a scalar, so that each is compared when it was computed.
    repulsive, _ = run.message_hub.get_scalar("train/loss_repulsive").data
    expected = [r.item() for r, _ in seen[3:]]
    assert repulsive.tolist() == pytest.approx(expected, rel=1e-5)
    history = run.message_hub.get_scalar("train/loss_orthogonality").data[0]
    assert history.tolist() == pytest.approx([o.item() for _, o in seen[4:]], rel=1e-5)
    # Their sum is what is trained.
    total = run.message_hub.get_scalar("train/loss").data[0]
    maps = run.message_hub.get_scalar("train/loss_map").data[0]
    assert total[-1] == pytest.approx(maps[-1] + expected[-1] + seen[-1][1].item(), rel=1e-5)
    assert not run.model._forward_hooks


def test_mixed_precision_does_not_change_the_losses(tmp_path):
    """The loss on parameters and its gradient are the same, in float32, under autocast."""
    run = runner(tmp_path, [dict(type="RepulsiveLossHook", begin=0)])
    hook = next(h for h in run.hooks if isinstance(h, RepulsiveLossHook))
    model = run.model
    layers = hook.layers(model)
    exact = hook.loss(layers)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = hook.loss(layers)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, exact, rtol=0, atol=0)
    grads = [torch.autograd.grad(x, layers[0].positions)[0] for x in (exact, mixed)]
    assert torch.equal(*grads)


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (lambda: RepulsiveLossHook(weight=-1), "weight: -1"),
        (lambda: RepulsiveLossHook(radius=0), "radius: 0"),
        (lambda: OrthogonalityLossHook(1.0, begin=-1), "begin: -1"),
        (lambda: LearnableConvStatsHook(0), "interval: 0"),
    ],
)
def test_wrong_arguments_are_named(hook, message):
    with pytest.raises(ValueError, match=message):
        hook()


def test_a_loss_without_layers_is_an_error(tmp_path):
    run = runner(tmp_path, [dict(type="RepulsiveLossHook")])
    run.model.stages[0] = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1))
    with pytest.raises(ValueError, match="RepulsiveLossHook: the model has no layer"):
        run.train()


def test_epochs_in_a_loop_without_them_are_an_error(tmp_path):
    run = runner(
        tmp_path, [dict(type="RepulsiveLossHook")], train_cfg=dict(by_epoch=False, max_iters=2)
    )
    with pytest.raises(ValueError, match="begin=20 counts epochs, and this loop has none"):
        run.train()


def test_what_layers_learn_is_logged_by_stage(tmp_path):
    run = runner(tmp_path, [dict(type="LearnableConvStatsHook", interval=3)])
    conv = run.model.stages[0][1]
    with torch.no_grad():
        conv.positions.fill_(0.0)
        conv.positions[0, :2] = 3.0  # A quarter of the output channels' elements at the edge.
        run.model.head.guide_weight.zero_()
        run.model.head.guide_bias.copy_(torch.tensor([0.0, 9, 0, 0]))
    run.optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.0))
    before = conv.positions.detach().clone()
    run.train()
    torch.testing.assert_close(conv.positions, before)
    line = [x for x in scalars(tmp_path) if "position_step/stages.0" in x][-1]
    assert line["position_step/stages.0"] == line["position_step/stages.1"] == 0
    first, second = 0.0, 0.25
    assert line["positions_at_edge/stages.0"] == pytest.approx((first + second) / 2)
    assert line["regions_entropy/head"] == 0
    assert line["regions_empty/head"] == 3
    assert not run.model.head._forward_hooks


def test_position_step_is_the_distance_per_iteration(tmp_path):
    hooks = [dict(type="LearnableConvStatsHook", interval=3)]
    run = runner(tmp_path, hooks, train_cfg=dict(by_epoch=True, max_epochs=1))
    layers = list(run.model.stages[0])
    starts = [c.positions.detach().clone() for c in layers]
    run.train()
    moved = [(c.positions - s).norm(dim=0).mean() / 3 for c, s in zip(layers, starts, strict=True)]
    line = next(x for x in scalars(tmp_path) if "position_step/stages.0" in x)
    assert line["position_step/stages.0"] == pytest.approx(
        torch.stack(moved).mean().item(), rel=1e-4
    )
    reach = torch.stack([c.positions.square().sum(0).sqrt().mean() for c in layers]).mean()
    assert line["position_radius/stages.0"] == pytest.approx(reach.item(), rel=1e-4)
    assert 0 <= line["regions_entropy/head"] <= math.log2(4)


def test_the_first_position_step_after_a_restart_is_of_its_own_iterations(tmp_path):
    hooks = [dict(type="LearnableConvStatsHook", interval=3)]
    train_cfg = dict(by_epoch=False, max_iters=3)
    run = runner(tmp_path, hooks, train_cfg=train_cfg)
    # As after a checkpoint of iteration 2.
    run.train_loop._iter = 2
    layers = list(run.model.stages[0])
    starts = [c.positions.detach().clone() for c in layers]
    run.train()
    moved = [(c.positions - s).norm(dim=0).mean() for c, s in zip(layers, starts, strict=True)]
    line = next(x for x in scalars(tmp_path) if "position_step/stages.0" in x)
    assert line["position_step/stages.0"] == pytest.approx(
        torch.stack(moved).mean().item(), rel=1e-4
    )


@pytest.mark.parametrize("by_epoch", [True, False])
def test_a_resumed_run_repeats_an_uninterrupted_one(by_epoch, tmp_path):
    """Dropout, augmentations, order of images: all are drawn as they would have been."""
    results = []
    for name, stops in (("whole", [9]), ("parts", [6, 9])):
        for stop in stops:
            loop = dict(by_epoch=True, max_epochs=stop // 3)
            checkpoint = dict(type="CheckpointHook", interval=1)
            if not by_epoch:
                loop = dict(by_epoch=False, max_iters=stop)
                checkpoint = dict(type="CheckpointHook", interval=2, by_epoch=False)
            sampler = "DefaultSampler" if by_epoch else "InfiniteSampler"
            run = runner(
                tmp_path / name,
                [dict(type="ReseedHook"), dict(type="EMAHook", momentum=0.1)],
                train_cfg=loop,
                default_hooks=dict(checkpoint=checkpoint),
                train_dataloader=dict(
                    dataset=dict(type="HookTestImages"),
                    sampler=dict(type=sampler, shuffle=True),
                    batch_size=2,
                    num_workers=0,
                    collate_fn=dict(type="default_collate"),
                ),
                resume=stop != stops[0],
                experiment_name=f"{name}{stop}{by_epoch}",
            )
            run.train()
        ema = next(h for h in run.hooks if type(h).__name__ == "EMAHook").ema_model
        results.append((run.model.state_dict(), ema.state_dict()))
    for whole, parts in zip(*results, strict=True):
        for key, value in whole.items():
            assert torch.equal(value, parts[key]), key


def test_seeds_differ_by_iteration_and_use():
    hook = ReseedHook(seed=3)
    drawn = set()
    for iteration in range(3):
        for loading in (False, True):
            hook._reseed(None, iteration, loading)
            drawn.add(torch.rand(()).item())
    assert len(drawn) == 6


def annealed(work_dir, **options):
    """Alpha of DKE layers, one at 10 and one that is at 3, before every iteration."""
    run = runner(work_dir, [dict(type="AlphaAnnealingHook", **options)])
    sharp, soft = run.model.stages[1][0], DKEConv2d(8, 8, 3, padding=1)
    sharp.alpha.fill_(10)
    soft.alpha.fill_(3)
    run.model.stages[1].append(soft)
    seen = []
    run.model.register_forward_pre_hook(
        lambda *_: seen.append((sharp.alpha.item(), soft.alpha.item()))
    )
    run.train()
    return seen


@pytest.mark.parametrize(
    "options", [dict(end=8, begin=2, by_epoch=False), dict(end=2)], ids=["iterations", "epochs"]
)
def test_alpha_anneals_to_the_paper_s(tmp_path, options):
    """Nine iterations, three per epoch."""
    begin = options.get("begin", 0)
    end = options["end"] * (3 if options.get("by_epoch", True) else 1)
    for now, (sharp, soft) in enumerate(annealed(tmp_path, **options)):
        share = min(max((now - begin) / (end - begin), 0), 1)
        expected = 10 * 0.2**share
        assert sharp == pytest.approx(expected, rel=1e-5)
        assert soft == pytest.approx(min(3, expected), rel=1e-5)
    assert sharp == pytest.approx(2)


def test_annealing_needs_a_gaussian_and_a_range(tmp_path):
    for wrong, message in (
        (dict(end=0), "begin: 0, end: 0"),
        (dict(end=2, begin=3), "begin: 3, end: 2"),
        (dict(end=2, target=11.0), "target: 11"),
    ):
        with pytest.raises(ValueError, match=message):
            AlphaAnnealingHook(**wrong)
    run = runner(tmp_path, [dict(type="AlphaAnnealingHook", end=2)])
    run.model.stages[1] = nn.Sequential()
    with pytest.raises(ValueError, match="no DKE layer with a Gaussian"):
        run.train()


def test_annealing_by_epoch_in_a_loop_without_them_is_an_error(tmp_path):
    loop = dict(train_cfg=dict(type="IterBasedTrainLoop", max_iters=2))
    with pytest.raises(ValueError, match="end=2 counts epochs, and this loop has none"):
        runner(tmp_path, [dict(type="AlphaAnnealingHook", end=2)], **loop).train()
