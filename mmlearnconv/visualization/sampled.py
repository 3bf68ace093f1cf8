"""Pictures of sampling points on an image."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from torch import nn

from ..analysis import Sampling, SamplingPoints
from ..analysis.sampling import sampler_of
from ..analysis.stages import stage_of
from ..layers import LearnableConv
from .picture import MARK, Picture, grid, short

LAYERS_SHOWN = 6
#: Points of one layer in a picture.
POINTS_SHOWN = 400
_OWN, _FIRST = MARK, "#1e78ff"


def layers_to_show(model: nn.Module, looked: SamplingPoints) -> list[str]:
    """The last learnable (or deformable) layer of each stage, at most six, in the order they run.

    In a model that has none, the last plain convolution of each stage that is larger than 1x1.
    """
    modules = dict(model.named_modules())
    names = [name for name in looked.calls if sampler_of(modules[name])]
    learnable = [n for n in names if isinstance(modules[n], LearnableConv) or _deforms(modules[n])]
    last = {stage_of(name): name for name in learnable or names}
    return list(last.values())[-LAYERS_SHOWN:]


def _deforms(module: nn.Module) -> bool:
    return hasattr(module, "conv_offset")


def draw_point(
    looked: SamplingPoints,
    layers: Sequence[str],
    image: np.ndarray,
    point: Sequence[float],
    name: str = "sampling_points",
) -> Picture:
    """Where the network looks to compute the features at a point of the image, layer by layer.

    Args:
        looked: of the model and the image.
        layers: names of the layers whose features are looked at.
        image: ``(H, W, 3)``, RGB; of any size.
        point: column and row (x, y) in shares of the image's width and height.
        name: of the picture. Default: ``'sampling_points'``.
    """
    figure, axes = grid(len(layers), 3, 3.4, 3.4 * image.shape[0] / image.shape[1] + 0.5)
    for axis, layer in zip(axes, layers, strict=True):
        size = looked.map_size(layer)
        row, column = (min(int(p * n), n - 1) for p, n in zip(point[::-1], size, strict=True))
        first = looked.before(layer)[:1]
        found = looked.of(layer, (row, column), POINTS_SHOWN, [layer, *first])
        axis.imshow(image)
        scale = image.shape[0] / looked.size[0], image.shape[1] / looked.size[1]
        kinds = [(_OWN, "the layer itself")] + [(_FIRST, "through all layers")] * len(first)
        for shown, (colour, label) in zip([layer, *first], kinds, strict=True):
            if shown in found:
                _dots(axis, found[shown], scale, colour, label)
        axis.plot(
            (column + 0.5) * image.shape[1] / size[1] - 0.5,
            (row + 0.5) * image.shape[0] / size[0] - 0.5,
            marker="+",
            color="w",
            markersize=14,
            markeredgewidth=2.5,
        )
        axis.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))
        axis.set(xlabel="column (pixels)", ylabel="row (pixels)")
        axis.set_title(short(layer), fontsize="small")
    axes[0].legend(fontsize="x-small", loc="lower right")
    where = f"({100 * point[0]:.0f} %, {100 * point[1]:.0f} %)"
    caption = (
        f"To compute a layer's features at the white cross, {where} of width and height, the layer "
        "itself reads at the orange points of its input map; through all layers before it, the "
        "first layer reads at the blue points of the image. Larger dots weigh more. At most "
        f"{POINTS_SHOWN} points per layer, the strongest."
    )
    return Picture(name, "Sampling points on the image", caption, figure)


def _dots(
    axis: Axes, sampling: Sampling, scale: tuple[float, float], colour: str, label: str
) -> None:
    points = (sampling.points.detach().cpu() + 0.5) * sampling.points.new_tensor(scale) - 0.5
    weights = sampling.weights.detach().cpu()
    sizes = 2 + 28 * weights / weights.max().clamp_min(1e-12) if len(weights) else weights
    axis.scatter(points[:, 1], points[:, 0], s=sizes, color=colour, alpha=0.6, lw=0, label=label)
