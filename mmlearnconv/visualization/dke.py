"""Pictures of DKE: shapes of kernels, and how a position finds its cell."""

import torch
from torch import Tensor

from ..analysis import search_path
from ..layers import DKEConv2d
from ..ops import dke_response
from .picture import Picture, grid, name_axes, name_panel, panels, short

_CHANNELS = 12
_LAYERS = 8


def draw(layers: dict[str, DKEConv2d]) -> list[Picture]:
    """Taps of the layers, of a layer's channels, and the gradient field."""
    last = list(layers.items())[-_LAYERS:]
    pictures = [taps(dict(last)), gradient_field()]
    if len(last[-1][1].positions) > 1:
        pictures.insert(1, shapes(*last[-1]))
    return pictures


def taps(layers: dict[str, DKEConv2d]) -> Picture:
    """Positions of all channels' taps, a panel per layer."""
    figure, axes = grid(len(layers), 4, 2.4, 2.4)
    for axis, (name, layer) in zip(axes, layers.items(), strict=True):
        places = layer.positions.detach().float().cpu()
        energy = _per_channel(layer)
        size = energy.sum(0, keepdim=True) if len(places) == 1 else energy
        size = 12 * size / size.max().clamp_min(1e-12)
        number = torch.arange(layer.points).expand(len(places), -1)
        rows, columns = places.flatten(0, 1).T
        axis.scatter(columns, rows, s=size.flatten(), c=number.flatten(), cmap="tab10")
        far = layer.position_limit + 0.5
        axis.set(xlim=(-far, far), ylim=(far, -far), aspect="equal", title=short(name))
        axis.set(xlabel="column (cells)", ylabel="row (cells)")
    caption = (
        "Where the taps of each layer lie: a dot per input channel and tap, its size the weight's "
        "absolute value, its colour the tap's number. Plain kernels of 3x3 would have nine dots."
    )
    return Picture("dke_taps", "DKE: taps by layer", caption, figure)


def shapes(name: str, layer: DKEConv2d) -> Picture:
    """What single channels' kernels look like (figures 5 and 6 of the paper)."""
    weights = _per_channel(layer)
    chosen = weights.sum(1).argsort(descending=True)[:_CHANNELS].tolist()
    figure, axes = grid(len(chosen), 6)
    far = layer.position_limit + 0.5
    for axis, channel in zip(axes, chosen, strict=True):
        rows, columns = layer.positions.detach().float().cpu()[channel].T
        grey = weights[channel] / weights[channel].max().clamp_min(1e-12)
        axis.scatter(columns, rows, c=grey, cmap="Blues", vmin=-0.3, vmax=1, edgecolors="k", s=25)
        axis.set(xlim=(-far, far), ylim=(far, -far), aspect="equal")
        name_panel(axis, f"channel {channel}")
    name_axes(figure)
    caption = (
        f"The kernels of the {len(chosen)} input channels of {name} with the largest weights: each "
        "dot is a tap at its learned position, darker the larger its weight."
    )
    return Picture("dke_shapes", f"DKE: shapes of kernels of {name}", caption, figure)


def _per_channel(layer: DKEConv2d) -> Tensor:
    """Absolute weights of each input channel's taps, ``(in, points)``."""
    by_group = layer.weight.detach().float().abs().unflatten(0, (layer.groups, -1))
    return by_group.sum(1).flatten(0, 1).cpu()


def gradient_field() -> Picture:
    """Figures 2 and 3 of the paper: where each gradient pushes a position, and its path."""
    figure, axes = panels(1, 2, 3.2, 3.0)
    line = torch.linspace(-1.4, 1.4, 13, dtype=torch.double)
    for axis, kind in zip(axes[0], ("gauss", "bilinear"), strict=True):
        points = torch.cartesian_prod(line, line).requires_grad_()
        share = dke_response(points, (9, 9), kind, 2.0, 2.0)[:, 4, 4].sum()
        (slope,) = torch.autograd.grad(share, points)
        rows, columns = points.detach().T
        axis.quiver(columns, rows, slope[:, 1], slope[:, 0], angles="xy", color="0.5")
        path = search_path(kind)
        axis.plot(path[:, 1], path[:, 0], "C1.-", markersize=3, label="path")
        axis.plot(0, 0, "k*", markersize=10, label="optimum")
        axis.set(title=kind, xlabel="column (cells)", ylabel="row (cells)", aspect="equal")
        axis.legend(fontsize="small")
    caption = (
        "Arrows show where a gradient step moves a position whose best cell is the star; the line "
        "is the path of one position. With the Gaussian all arrows within two cells point at the "
        "cell; with bilinear interpolation they do not, and vanish beyond one cell."
    )
    return Picture("dke_gradient", "DKE: how a position finds its cell", caption, figure)
