"""Every classification config: built, a training step, a prediction; its data and its schedule."""

from fnmatch import fnmatch

import pytest

from tests import libraries
from tests.configs.test_configs import CLASSIFIERS
from tests.conftest import ROOT, mostly_long
from tests.processes import call

# Larger networks, or other classes, than those of other configs.
ALIKE = (
    *("resnet101_*", "resnet50dw_*_1x1_*", "convnext_[sb]_*", "*_cifar100"),
    *("*_dilation[346]_*", "convnext_t_dilation2_*", "resnet50_dilation2_*"),
)
FOLDERS = sorted({p.parent.name for p in (ROOT / "configs").glob("*/*_in1k.py")})


def classifiers(folder, alike):
    paths = [p for pattern in CLASSIFIERS for p in (ROOT / "configs" / folder).glob(pattern)]
    return sorted(p for p in paths if any(fnmatch(p.stem, name) for name in ALIKE) == alike)


PARTS = [
    (folder, alike) for folder in FOLDERS for alike in (False, True) if classifiers(folder, alike)
]


def train_and_predict(folder, alike):
    """To be run in a process that may import what it likes."""
    libraries.find()
    import torch
    from mmengine.logging import MMLogger
    from mmengine.model import revert_sync_batchnorm
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import DATASETS, MODELS, PARAM_SCHEDULERS, TRANSFORMS, init_default_scope

    from mmlearnconv import cli

    MMLogger.get_instance("classifiers", log_level="ERROR")
    init_default_scope("mmpretrain")
    torch.set_num_threads(1)
    for path in classifiers(folder, alike):
        print(path.stem, flush=True)
        torch.manual_seed(0)
        cfg = cli.read_config(str(path))
        # mmcv's deformable convolutions need maps of 3x3.
        size = (32, 32) if "cifar" in path.stem else (96, 96)
        if path.stem.startswith("alexnet"):
            size = (224, 224)
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
        model.init_weights()
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
        steps = cfg.param_scheduler
        for step in steps if isinstance(steps, list) else [steps]:
            options = dict(optimizer=optimizer, epoch_length=3, end=300)
            PARAM_SCHEDULERS.build(step, default_args=options)
        for group in optimizer.param_groups:
            # One step at the recipe's rate, without its warm-up, may diverge.
            group["lr"] *= 1e-3
        model.train()
        data = cli.random_inputs(model, cfg, size, True, images=2)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        losses = model(**data, mode="loss")
        loss, _ = model.parse_losses(losses)
        assert torch.isfinite(loss), path.stem
        optimizer.optimizer.zero_grad()
        loss.backward()
        without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not without, (path.stem, without)
        optimizer.optimizer.step()
        assert any(not torch.equal(p, before[n]) for n, p in model.named_parameters())
        model.eval()
        data = cli.random_inputs(model, cfg, size, False)
        with torch.no_grad():
            (sample,) = model(**data, mode="predict")
        classes = cfg.data_preprocessor.num_classes
        assert sample.pred_score.shape == (classes,), path.stem
        assert sample.pred_score.sum() == pytest.approx(1, abs=1e-4)
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            with DATASETS.switch_scope_and_registry("mmpretrain") as registry:
                kind = registry.get(loader.dataset.type)
            assert len(kind.METAINFO["classes"]) == classes, path.stem
            for transform in loader.dataset.pipeline:
                TRANSFORMS.build(transform)


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "alike"), mostly_long(PARTS, *((f, False) for f in FOLDERS)))
def test_every_classifier_trains_and_predicts(folder, alike):
    libraries.need()
    assert classifiers(folder, alike)
    call(train_and_predict, folder, alike)
