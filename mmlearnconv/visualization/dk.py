"""Pictures of DK: how the kernel is resampled."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..analysis.sampling import Call
from ..errors import UserImportError, UserValueError
from ..layers import DeformableKernelConv2d
from .picture import SEQUENTIAL, Picture, grid, name_panel, panels, short, show_kernel

_LAYERS = 8
_PLACES = 9
_CHUNK = 256  # locations
_CLASSES = 8
_FEWEST = 4


def draw(
    layers: dict[str, DeformableKernelConv2d], calls: dict[str, Call], image: np.ndarray
) -> list[Picture]:
    """Offsets of the last layers, and one layer's kernel at several places of the image."""
    pictures = [offsets(dict(list(layers.items())[-_LAYERS:]), calls)]
    local = {name: layer for name, layer in layers.items() if layer.mode == "local"}
    if local:
        name, layer = list(local.items())[-1]
        pictures.append(kernels(name, layer, calls[name], image))
    return pictures


def locations_of(output: Tensor) -> Tensor:
    """Every row and column of a map, ``(H' W', 2)``."""
    sides = (torch.arange(n, device=output.device) for n in output.shape[2:])
    return torch.cartesian_prod(*sides)


@torch.no_grad()
def positions(layer: DeformableKernelConv2d, call: Call) -> Tensor:
    """Where every tap reads, at all locations or for the image, ``(L, taps, 2)``."""
    locations = locations_of(call.output)
    if layer.mode == "global":
        locations = locations[:1]
    chunks = locations.split(_CHUNK)
    return torch.cat([layer.tap_positions(chunk, call.args[0]).cpu() for chunk in chunks])


def offsets(layers: dict[str, DeformableKernelConv2d], calls: dict[str, Call]) -> Picture:
    """Taps in the kernel space, over all locations of the image."""
    figure, axes = grid(len(layers), 4, 2.4, 2.4)
    for axis, (name, layer) in zip(axes, layers.items(), strict=True):
        places = positions(layer, calls[name])
        number = torch.arange(places.shape[1]).expand(len(places), -1)
        rows, columns = places.flatten(0, 1).T
        axis.scatter(columns, rows, s=3, c=number.flatten(), cmap="tab10", alpha=0.5)
        sides = zip(layer.kernel_size, layer.scope, strict=True)
        cells = [torch.arange(k) + (s - k) / 2 for k, s in sides]
        start = torch.cartesian_prod(*cells)
        axis.plot(start[:, 1], start[:, 0], "k+", markersize=6)
        space = layer.scope
        axis.set(xlim=(-0.5, space[1] - 0.5), ylim=(space[0] - 0.5, -0.5), aspect="equal")
        axis.set(xlabel="column (cells)", ylabel="row (cells)")
        axis.set_title(f"{short(name)} ({layer.mode})", fontsize="small")
    caption = (
        "Where the taps of each layer are read in its kernel space: a colour per tap, a dot per "
        "location of the image (one for the whole image in global layers). Crosses are the taps at "
        "zero offset: dots that still lie on them have not been moved."
    )
    return Picture("dk_offsets", "DK: taps in the kernel space", caption, figure)


def kernels(name: str, layer: DeformableKernelConv2d, call: Call, image: np.ndarray) -> Picture:
    """The kernel that a layer uses at nine places, about an image that shows them."""
    height, width = call.output.shape[2:]
    shares = torch.tensor([1, 3, 5]) / 6
    places = torch.cartesian_prod((shares * height).long(), (shares * width).long())
    with torch.no_grad():
        found = layer._kernels_at(places.to(call.output.device), call.args[0])
    channel = int(found.flatten(3).std(0).sum((1, 2)).argmax())
    figure, axes = panels(2, 5, 1.9, 1.9)
    photo = axes[0, 0]
    photo.imshow(image)
    scale = image.shape[0] / height, image.shape[1] / width
    for axis, number in zip(axes.flat[1:], range(_PLACES), strict=True):
        row, column = places[number].tolist()
        at = (column + 0.5) * scale[1] - 0.5, (row + 0.5) * scale[0] - 0.5
        photo.annotate(
            str(number + 1),
            at,
            color="k",
            fontsize="small",
            ha="center",
            va="center",
            bbox=dict(boxstyle="circle,pad=0.15", fc="w", alpha=0.8),
        )
        show_kernel(axis, found[number, channel, 0])
        name_panel(axis, f"place {number + 1}")
    name_panel(photo, "places")
    figure.supxlabel("column (cells; pixels of the image)", fontsize="small")
    figure.supylabel("row (cells; pixels)", fontsize="small")
    caption = (
        f"The kernel of output channel {channel} of {name} at nine places of the image: red cells "
        "add, blue ones subtract. Equal kernels mean that the layer does not adapt here."
    )
    return Picture("dk_kernels", f"DK: resampled kernels of {name}", caption, figure)


def offsets_at(
    layer: DeformableKernelConv2d, call: Call, centres: Sequence[tuple[float, float]]
) -> np.ndarray:
    """Positions of a local layer's taps at places, given in shares: ``(places, 2 taps)``."""
    size = torch.tensor(call.output.shape[2:])
    places = (torch.tensor(centres) * size).long().clamp(max=size - 1)
    with torch.no_grad():
        found = layer.tap_positions(places.to(call.output.device), call.args[0])
    return found.flatten(1).cpu().numpy()


def draw_objects(
    name: str, found: np.ndarray, shares: Sequence[float], categories: Sequence[str]
) -> Picture:
    """Offsets at objects, in two dimensions by t-SNE, by size and class (figure 3 of the paper).

    Args:
        name: of the layer.
        found: :func:`offsets_at` the objects' centres, ``(objects, 2 taps)``.
        shares: the objects' shares of their image's area.
        categories: their classes.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: there are fewer than four objects.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise UserImportError("t-SNE needs scikit-learn: pip install scikit-learn") from error
    if len(found) < _FEWEST:
        raise UserValueError(f"{len(found)} objects are too few for t-SNE; at least {_FEWEST}")
    perplexity = min(30, (len(found) - 1) / 3)
    rows, columns = (
        TSNE(perplexity=perplexity, init="random", random_state=0).fit_transform(found).T
    )
    figure, axes = panels(1, 2, 3.6, 3.4)
    by_size, by_class = axes[0]
    picture = by_size.scatter(columns, rows, s=8, c=np.sqrt(shares), cmap=SEQUENTIAL)
    figure.colorbar(picture, ax=by_size, label="side of the box / side of the image")
    by_size.set_title("by size", fontsize="small")
    frequent = [category for category, _ in Counter(categories).most_common(_CLASSES)]
    for category in frequent:
        chosen = np.array([c == category for c in categories])
        by_class.scatter(columns[chosen], rows[chosen], s=8, label=category)
    by_class.set_title(f"by class (the {len(frequent)} most frequent)", fontsize="small")
    by_class.legend(fontsize="xx-small")
    for axis in axes[0]:
        axis.set(xlabel="first dimension of t-SNE", ylabel="second dimension")
    caption = (
        f"The offsets of {name} at the centres of {len(found)} objects, laid out so that similar "
        "ones are neighbours: left coloured by the object's size, right by its class. Clusters of "
        "one colour mean that the kernel adapts to it."
    )
    return Picture("dk_objects", f"DK: offsets at objects, {name}", caption, figure)
