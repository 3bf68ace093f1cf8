"""Pictures of DRConv: which region got which filter."""

import numpy as np
import torch

from ..analysis.sampling import Call
from ..layers import DRConv2d
from .picture import Picture, grid, panels, short

_LAYERS = 8


def draw(layers: dict[str, DRConv2d], calls: dict[str, Call], image: np.ndarray) -> list[Picture]:
    """Masks over the image (figure 3 of the paper), and how often each region is chosen."""
    regions = {name: region_of(layer, calls[name]) for name, layer in layers.items()}
    shown = list(regions)[-_LAYERS:]
    figure, axes = grid(len(shown), 4, 2.6, 2.4)
    height, width = image.shape[:2]
    for axis, name in zip(axes, shown, strict=True):
        axis.imshow(image)
        axis.imshow(
            regions[name],
            cmap="tab10" if layers[name].regions <= 10 else "tab20",
            vmin=-0.5,
            vmax=9.5 if layers[name].regions <= 10 else 19.5,
            alpha=0.55,
            interpolation="nearest",
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        )
        axis.set(xlabel="column (pixels)", ylabel="row (pixels)")
        axis.set_title(short(name), fontsize="small")
    caption = (
        "The guided mask of each layer over the image: locations of one colour get the same of the "
        "layer's filters. Colours of different layers have nothing to do with each other."
    )
    masks = Picture("drconv_masks", "DRConv: guided masks", caption, figure)
    return [masks, use(layers, regions)]


def region_of(layer: DRConv2d, call: Call) -> np.ndarray:
    """The region of every output location, ``(H', W')``."""
    with torch.no_grad():
        guide = call.args[1] if len(call.args) > 1 else layer.guide(call.args[0])
    return guide[0].argmax(0).cpu().numpy()


def use(layers: dict[str, DRConv2d], regions: dict[str, np.ndarray]) -> Picture:
    """Share of the locations that each region gets, a bar per layer."""
    figure, axes = panels(1, 1, 6.0, 0.32 * len(regions) + 1.2)
    axis = axes[0, 0]
    for row, (name, found) in enumerate(regions.items()):
        counts = np.bincount(found.ravel(), minlength=layers[name].regions)
        shares = counts / counts.sum()
        starts = np.concatenate([[0], shares.cumsum()[:-1]])
        colours = [f"C{i % 10}" for i in range(len(shares))]
        axis.barh(row, shares, left=starts, color=colours, edgecolor="white")
    axis.set_yticks(range(len(regions)), [short(name) for name in regions], fontsize="small")
    axis.set(xlabel="share of the locations", xlim=(0, 1))
    axis.invert_yaxis()
    caption = (
        "How much of the map each of a layer's filters serves, on this image. One colour across a "
        "bar means that the layer uses a single filter everywhere."
    )
    return Picture("drconv_use", "DRConv: use of the regions", caption, figure)
