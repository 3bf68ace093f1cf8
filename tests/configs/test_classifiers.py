"""Every classification config: built, a training step, a prediction; its data and its schedule."""

import pytest

from tests import libraries
from tests.configs.test_configs import CLASSIFIERS
from tests.conftest import ROOT
from tests.processes import call

FOLDERS = sorted({p.parent.name for p in (ROOT / "configs").glob("*/*_in1k.py")})


def classifiers(folder):
    folder = ROOT / "configs" / folder
    return sorted(path for pattern in CLASSIFIERS for path in folder.glob(pattern))


def train_and_predict(folder):
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
    for path in classifiers(folder):
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
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_classifier_trains_and_predicts(folder):
    libraries.need()
    assert classifiers(folder)
    call(train_and_predict, folder)
