"""What ``model-index.yml``, the metafiles and the pages of the configs' folders say."""

from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

from tests.configs.test_configs import CONFIGS as DETECTION_AND_SEGMENTATION
from tests.conftest import ROOT, config_path

METAFILES = yaml.safe_load((ROOT / "model-index.yml").read_text())["Import"]


def models_of(metafile):
    return yaml.safe_load((ROOT / metafile).read_text())["Models"]


def test_the_index_lists_every_config():
    """As mim reads it."""
    models = []
    for path in METAFILES:
        listed = yaml.safe_load((ROOT / path).read_text())
        collections = {collection["Name"] for collection in listed["Collections"]}
        assert all((ROOT / c["README"]).is_file() for c in listed["Collections"])
        for model in listed["Models"]:
            assert model["In Collection"] in collections
            models.append(model)
    # A folder without a metafile has no published figures.
    folders = [ROOT / "configs", *((ROOT / path).parent for path in METAFILES)]
    configs = [str(path.relative_to(ROOT)) for f in folders for path in f.glob("*.py")]
    assert sorted(model["Config"] for model in models) == sorted(configs)
    # mim finds a config by its name.
    assert len({model["Name"] for model in models}) == len(models)
    for model in models:
        assert Path(model["Config"]).stem == model["Name"]
        # mim search reads nothing else.
        assert all(isinstance(v, str | int | float) for v in model["Metadata"].values())
        for result in model.get("Results", []):
            assert {"Task", "Dataset", "Metrics"} <= result.keys()
            assert all(0 < value < 100 for value in result["Metrics"].values())
    published = {m["Name"] for m in models if m.get("Results")}
    assert len(published) >= 50


@pytest.mark.parametrize("metafile", METAFILES)
def test_a_folder_s_page_has_a_row_per_config_with_its_published_figures(metafile):
    page = (ROOT / metafile).with_name("README.md").read_text()
    for model in models_of(metafile):
        metrics = [f"{k} {v}" for r in model.get("Results", []) for k, v in r["Metrics"].items()]
        (row,) = [line for line in page.splitlines() if f"[{model['Name']}](" in line]
        assert row.split(" | ")[1].strip(" |") == ", ".join(metrics)
        link = row.split("](")[1].split(")")[0]
        assert ((ROOT / metafile).parent / link).resolve() == ROOT / model["Config"]


def test_every_base_is_found():
    # Those of classifiers need mmpretrain: test_classifiers.py.
    for name in DETECTION_AND_SEGMENTATION:
        assert "model" in Config.fromfile(config_path(name))
