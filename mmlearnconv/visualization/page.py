"""One HTML page with all pictures, and sampling points to click through; needs no network."""

import base64
import html
import io
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from ..analysis import Sampling, SamplingPoints
from ..files import atomic_write
from .picture import Picture

_TEMPLATE = Path(__file__).with_name("page.html")
#: Locations along the longer side of an image, and points of each, in the page.
LOCATIONS, POINTS = 7, 250
_LONGEST = 900  # pixels of a photograph
# Points are stored in shares of the image of 1 / 4096, from one image width outside of it.
_STEPS, _MARGIN = 4096, 1.0


def write_page(
    path: Path,
    title: str,
    pictures: Sequence[Picture],
    photographs: Sequence[tuple[str, np.ndarray, SamplingPoints, Sequence[str]]] = (),
) -> None:
    """Write the page.

    Args:
        path: file to write.
        title: of the page.
        pictures: with their captions, in this order.
        photographs: for each image its name, its pixels ``(H, W, 3)`` in RGB, the sampling points
            on it, and the layers whose features can be chosen.
    """
    figures = "\n".join(_figure(picture) for picture in pictures)
    images = [_photograph(*photograph) for photograph in photographs]
    page = Template(_TEMPLATE.read_text()).substitute(
        title=html.escape(title),
        figures=figures,
        # "</" would end the script element.
        data=json.dumps(images, separators=(",", ":")).replace("</", "<\\/"),
        sampling="" if images else "hidden",
    )
    with atomic_write(path) as file:
        file.write_text(page, encoding="utf-8")


def _figure(picture: Picture) -> str:
    source = base64.b64encode(picture.png).decode()
    name, title, caption = (html.escape(t) for t in (picture.name, picture.title, picture.caption))
    return (
        f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2><figure>'
        f'<img src="data:image/png;base64,{source}" alt="{title}: see the caption">'
        f"<figcaption>{caption}</figcaption></figure></section>"
    )


def _photograph(
    name: str, image: np.ndarray, looked: SamplingPoints, layers: Sequence[str]
) -> dict[str, Any]:
    """An image and its points, as the page's script reads them."""
    picture = Image.fromarray(image)
    picture.thumbnail((_LONGEST, _LONGEST))
    file = io.BytesIO()
    picture.convert("RGB").save(file, format="JPEG", quality=80)
    shown = [dict(name=layer, **_points(looked, layer)) for layer in layers]
    return dict(
        name=name,
        width=picture.width,
        height=picture.height,
        source="data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode(),
        layers=shown,
    )


def _points(looked: SamplingPoints, layer: str) -> dict[str, Any]:
    """Points of a layer's locations on a coarse grid."""
    size = looked.map_size(layer)
    wanted = [max(1, round(LOCATIONS * side / max(looked.size))) for side in looked.size]
    counts = [(n, min(n, most)) for n, most in zip(size, wanted, strict=True)]
    places = [[int((i + 0.5) * n / count) for i in range(count)] for n, count in counts]
    before = looked.before(layer)[:1]
    own, first = [], []
    for location in product(*places):
        found = looked.of(layer, location, POINTS, [layer, *before])
        own.append(_encode(found.get(layer), looked.size))
        first.append(_encode(found.get(before[0]) if before else None, looked.size))
    at = [[(i + 0.5) / n for i in found] for found, n in zip(places, size, strict=True)]
    return dict(rows=at[0], columns=at[1], own=own, first=first, size=list(size))


def _encode(sampling: Sampling | None, size: tuple[int, ...]) -> str:
    """Column, row and weight of each point as 16-bit integers, in base64."""
    if sampling is None:
        return ""
    points = (sampling.points.detach().cpu().numpy() + 0.5) / np.array(size)
    points = ((points + _MARGIN) * _STEPS).round().clip(0, 65535)
    weights = sampling.weights.detach().cpu().numpy()
    weights = 1000 * weights / max(weights.max(initial=0), 1e-30)
    table = np.column_stack([points[:, 1], points[:, 0], weights]).astype("<u2")
    return base64.b64encode(table.tobytes()).decode()
