import argparse
import re
from importlib.metadata import distributions

import pytest
import torch
from mmengine.config import Config

from mmlearnconv import cli
from tests.conftest import ROOT, config_path


def parse(*arguments):
    return cli.argument_parser("").parse_args([str(a) for a in arguments])


@pytest.fixture
def detector():
    return Config.fromfile(config_path("mask_rcnn_dcls_convnext_t"))


def test_the_work_folder_is_named_after_the_config():
    path = config_path("upernet_dcls_convnext_t")
    assert cli.load_config(parse(path)).work_dir == "work_dirs/upernet_dcls_convnext_t"
    assert cli.load_config(parse(path, "--work-dir", "w")).work_dir == "w"


def test_no_such_config():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.py does not exist"):
        cli.load_config(parse("nowhere.py"))


def test_a_config_in_a_folder_below_is_pointed_at():
    below = ROOT / "configs/dcls/upernet_dcls_convnext_t.py"
    with pytest.raises(FileNotFoundError, match=f"did you mean {below}"):
        cli.read_config(ROOT / "configs" / below.name)


def test_a_config_of_an_installed_toolbox():
    path = "mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py"
    assert cli.read_config(path).model.decode_head.type == "FCNHead"
    assert cli.load_config(parse(path)).work_dir == "work_dirs/fcn_r50-d8_4xb4-80k_ade20k-512x512"
    with pytest.raises(FileNotFoundError, match=r"mmseg/\.mim/configs/fcn/no\.py does not exist"):
        cli.read_config("mmseg::fcn/no.py")
    with pytest.raises(FileNotFoundError, match=r"mmdat::a\.py: mmdat is not installed$"):
        cli.read_config("mmdat::a.py")


def test_a_base_of_a_toolbox_that_mmengine_does_not_find(tmp_path):
    """It looks for a distribution named mmsegmentation; the continuation's has another name."""
    if list(distributions(name="mmsegmentation")):
        pytest.skip("the original family")
    config = tmp_path / "own.py"
    config.write_text('_base_ = "mmseg::_base_/models/fcn_r50-d8.py"')
    with pytest.raises(ValueError, match="mmseg is here under another name") as error:
        cli.read_config(config)
    folder = re.search(r"base's path, (\S+)/\.\.\.", str(error.value))[1]
    config.write_text(f'_base_ = "{folder}/_base_/models/fcn_r50-d8.py"')
    assert cli.read_config(config).model.decode_head.type == "FCNHead"


def test_options_come_first():
    path = config_path("mask_rcnn_dcls_convnext_t")
    args = parse(path, "--cfg-options", "train_cfg.max_epochs=1", "--data-root", "elsewhere")
    cfg = cli.load_config(args)
    assert cfg.train_cfg.max_epochs == 1
    assert cfg.train_dataloader.dataset.data_root == "elsewhere/"


def test_options_keep_their_spaces():
    path = "/data/my runs/best.pth"
    options = parse("c.py", "--cfg-options", f"load_from={path}", "a.b=1, 2", 'c="d e"').cfg_options
    assert options == {"load_from": path, "a.b": [1, 2], "c": "d e"}


def test_data_root_reaches_loaders_and_evaluators(detector):
    cli.set_data_root(detector, "/elsewhere/coco")
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        assert detector[loader].dataset.data_root == "/elsewhere/coco/"
        assert detector[loader].dataset.ann_file.startswith("annotations/")
    for evaluator in ("val_evaluator", "test_evaluator"):
        ann_file = detector[evaluator].ann_file
        assert ann_file == "/elsewhere/coco/annotations/instances_val2017.json"


def test_data_root_below_wrappers_and_of_several_sets():
    sets = [dict(data_root=f"data/VOCdevkit/VOC{year}", ann_file="a.txt") for year in (2007, 2012)]
    wrapped = dict(type="RepeatDataset", dataset=dict(type="ConcatDataset", datasets=sets))
    cfg = Config(dict(train_dataloader=dict(dataset=wrapped)))
    cli.set_data_root(cfg, "voc")
    inner = cfg.train_dataloader.dataset.dataset.datasets
    assert [s.data_root for s in inner] == ["voc/VOC2007", "voc/VOC2012"]


def test_data_root_that_cannot_be_replaced():
    with pytest.raises(ValueError, match="no data set"):
        cli.set_data_root(Config(dict(train_dataloader=dict(dataset=dict(type="X")))), "d")
    sets = [dict(data_root="a"), dict(data_root="b")]
    cfg = Config(dict(train_dataloader=dict(dataset=dict(datasets=sets))))
    with pytest.raises(ValueError, match="no common parent"):
        cli.set_data_root(cfg, "d")


def test_missing_data_is_one_sentence(detector, tmp_path):
    cli.set_data_root(detector, str(tmp_path))
    with pytest.raises(FileNotFoundError) as raised:
        cli.check_data(detector, "train")
    message = str(raised.value)
    assert "\n" not in message
    assert f"{tmp_path}/annotations/instances_train2017.json" in message
    assert "--data-root" in message
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="train2017/"):
        cli.check_data(detector, "train")
    (tmp_path / "train2017").mkdir()
    cli.check_data(detector, "train")
    with pytest.raises(FileNotFoundError, match="val_dataloader"):
        cli.check_data(detector, "train", "val")


def test_data_that_makes_itself_is_not_missed(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cfg = Config.fromfile(config_path("quickstart_mask_rcnn_dcls"))
    cli.check_data(cfg, "train", "val", "test")
    assert list(tmp_path.iterdir()) == []


def test_amp_is_float16_on_a_gpu_and_bfloat16_without(detector):
    cli.use_amp(detector)
    wrapper = detector.optim_wrapper
    if torch.cuda.is_available():
        assert (wrapper.type, wrapper.loss_scale) == ("AmpOptimWrapper", "dynamic")
    else:
        assert wrapper.type == "BFloat16OptimWrapper"
    wrapper.type = "AmpOptimWrapper"
    wrapper.loss_scale = 512.0
    cli.use_amp(detector)
    assert (wrapper.type, wrapper.loss_scale) == ("AmpOptimWrapper", 512.0)


def test_auto_scale_lr(detector):
    cli.use_auto_scale_lr(detector)
    assert detector.auto_scale_lr == dict(enable=True, base_batch_size=16)
    with pytest.raises(ValueError, match="base_batch_size"):
        cli.use_auto_scale_lr(Config(dict()))


def test_predictions_are_drawn_where_asked(detector):
    cli.draw_predictions(detector, "pictures")
    hook = detector.default_hooks.visualization
    assert hook.draw
    assert hook.test_out_dir.endswith("/pictures")
    segmentor = Config.fromfile(config_path("upernet_dcls_convnext_t"))
    cli.draw_predictions(segmentor, "pictures")
    assert segmentor.visualizer.save_dir.endswith("/pictures")


def test_predictions_are_dumped_to_pickles_only(detector):
    cli.dump_predictions(detector, "out.pkl")
    assert detector.test_evaluator[-1] == dict(type="DumpDetResults", out_file_path="out.pkl")
    with pytest.raises(ValueError, match=r"out\.json"):
        cli.dump_predictions(detector, "out.json")


def test_parser_has_mmdet_s_options():
    args = parse("c.py", "--launcher", "slurm", "--local-rank", "3")
    assert isinstance(args, argparse.Namespace)
    assert (args.launcher, args.local_rank) == ("slurm", 3)


@pytest.mark.parametrize(
    "name",
    [
        "mask_rcnn_dcls_convnext_t",
        "upernet_dcls_convnext_t",
        "mask_rcnn_drconv_fpn_r50",
        "retinanet_drconv_r50",
    ],
)
def test_weights_are_named_on_the_command_line(name):
    path = config_path(name)
    options = [
        "model.backbone.init_cfg.type=Pretrained",
        "model.backbone.init_cfg.checkpoint=a.pth",
    ]
    cfg = cli.load_config(parse(path, "--cfg-options", *options))
    assert cfg.model.backbone.init_cfg == dict(type="Pretrained", checkpoint="a.pth")
