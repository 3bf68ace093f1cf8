"""Folders with spaces and letters beyond ASCII, and a cache that several processes fill at once."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmlearnconv.datasets import make_shapes
from tests.conftest import ROOT
from tests.processes import call, run_file

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_the_whole_chain_in_a_folder_of_any_name(config, shapes, tmp_path):
    """Trained, resumed, tested, folded, the folded tested, drawn, compared and run."""
    place = tmp_path / "Meine Modelle (größer) 模型 100%"
    place.mkdir()
    data = shutil.copytree(shapes, place / "Daten ü")
    mine = shutil.copy(config, place / "mein config.py")
    image = shutil.copy(min((data / "val").iterdir()), place / "ein Bild é.png")

    def tool(name, *arguments):
        command = [str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
        status, said = run_file(command, place, os.environ | dict(PYTHONPATH=str(ROOT)))
        assert status == 0, said[-5000:]

    out = place / "mein Lauf"
    run = "--data-root", data, "--work-dir", out
    tool("train", mine, *run)
    tool("train", mine, *run, "--resume", "--cfg-options", "train_cfg.max_iters=3")
    trained = out / "iter_3.pth"
    tool("test", mine, trained, *run)
    tool("fold", mine, trained, "gefaltet ü")
    (folded,) = (place / "gefaltet ü").glob("*.py")
    (weights,) = (place / "gefaltet ü").glob("*.pth")
    tool("test", folded, weights, *run)
    tool("visualize", mine, trained, "--image", image, "--size", 64, "--out", "Bilder ü")
    assert list((place / "Bilder ü").glob("*.html"))
    erf = "--num-images", 1, "--size", 64, "--out", "Felder ü"
    tool("receptive_field", mine, "--checkpoint", trained, *erf)
    tool("compare", mine, "--conv", "CoC", "--size", 64, 64, "--json", "Zahlen ü.json")
    assert (place / "Zahlen ü.json").is_file()
    tool("demo", image, mine, trained, "--out", "Funde ü")
    assert list((place / "Funde ü").rglob(image.name))


def draw(cache):
    os.environ["XDG_CACHE_HOME"] = cache
    make_shapes(splits=dict(train=6, val=2))


def test_processes_that_draw_one_cache_at_once(tmp_path):
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: call(draw, str(tmp_path)), range(3)))
    (made,) = (tmp_path / "mmlearnconv").iterdir()
    alone = make_shapes(tmp_path / "alone", dict(train=6, val=2))
    files = {p.relative_to(alone): p.read_bytes() for p in alone.rglob("*") if p.is_file()}
    assert files == {p.relative_to(made): p.read_bytes() for p in made.rglob("*") if p.is_file()}
