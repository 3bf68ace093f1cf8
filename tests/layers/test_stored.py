"""Checkpoints of every released version load and compute what they did.

At a release, ``python -m tests.layers.test_stored`` stores one, ``stored/VERSION.pth``: for each
form of the catalogue its ``conv_cfg``, ``groups``, state dict, an input and the output.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mmlearnconv
from mmlearnconv.surgery import build_conv
from tests.layers.contract import ALL_LAYERS, random_map

STORED = Path(__file__).with_name("stored")
# Their outputs changed, as the changelog says: 0.1.0 orthogonalised filters only nearly.
CHANGED = [("0.1.0", "ConvOrth-4")]
GEOMETRY = dict(in_channels=4, out_channels=4, kernel_size=3, padding=1)


def read(path: Path) -> dict[str, dict[str, Any]]:
    return torch.load(path, weights_only=True)


def build(cfg: dict[str, Any], groups: int) -> nn.Module:
    return build_conv(cfg, **GEOMETRY, groups=groups).eval()


@pytest.mark.parametrize(
    ("path", "form"),
    [pytest.param(p, form, id=f"{p.stem}-{form}") for p in STORED.iterdir() for form in read(p)],
)
def test_a_stored_layer_computes_what_it_did(path, form):
    stored = read(path)[form]
    conv = build(stored["cfg"], stored["groups"])
    conv.load_state_dict(stored["state_dict"])
    if (path.stem, form) not in CHANGED:
        torch.testing.assert_close(conv(stored["input"]), stored["output"])


def store(path: Path) -> None:
    """Store every form of the catalogue, dense and depthwise, with parameters all of them used."""
    found = {}
    for key, (name, layer, options) in ALL_LAYERS.items():
        for groups in (1, 4):
            torch.manual_seed(0)
            cfg = dict(options, type=name)
            conv = build(cfg, groups)
            for parameter in conv.parameters():
                nn.init.normal_(parameter, std=0.3)
            x = random_map(layer, 1)
            output = conv(x).detach()
            found[f"{key}-{groups}"] = dict(
                cfg=cfg, groups=groups, state_dict=conv.state_dict(), input=x, output=output
            )
    torch.save(found, path)


if __name__ == "__main__":
    store(STORED / f"{mmlearnconv.__version__}.pth")
