"""Pictures of CoC: kernels that collaborated."""

from ..layers import CoCConv2d
from .picture import Picture, grid, name_axes, name_panel, panels, short, show_kernel

_SHEETS = 4
_SUPER = 12


def draw(layers: dict[str, CoCConv2d]) -> list[Picture]:
    """Sheets of kernels of the last layer, and the super kernels of all."""
    associated = {n: layer for n, layer in layers.items() if layer.super_weight is not None}
    if not associated:
        return []
    return [sheets(*list(associated.items())[-1]), super_kernels(associated)]


def sheets(name: str, layer: CoCConv2d) -> Picture:
    """Kernels side by side, before and after their super kernel ran over them."""
    a, size = layer.association, layer.kernel_size
    count = min(_SHEETS, layer.out_channels // a**2)
    figure, axes = panels(2, max(count, 1), 2.0, 2.1)
    kinds = (layer.weight, "own kernels"), (layer.dense_kernel(), "associated")
    for row, (weight, label) in zip(axes, kinds, strict=True):
        for number, axis in enumerate(row[:count]):
            group = weight[number * a**2 : (number + 1) * a**2, 0]
            sheet = group.unflatten(0, (a, a)).transpose(1, 2).flatten(2).flatten(0, 1)
            show_kernel(axis, sheet)
            for cut in range(1, a):
                axis.axhline(cut * size[0] - a * size[0] / 2, color="k", linewidth=0.8)
                axis.axvline(cut * size[1] - a * size[1] / 2, color="k", linewidth=0.8)
            name_panel(axis, f"group {number}: {label}")
    name_axes(figure)
    caption = (
        f"Kernels of {name} for its first input channel, {a} x {a} to a sheet: above as they are "
        "stored, below after the super convolution let neighbours collaborate, as they are used."
    )
    return Picture("coc_sheets", f"CoC: kernels by group, {name}", caption, figure)


def super_kernels(layers: dict[str, CoCConv2d]) -> Picture:
    """The first super kernels of each layer."""
    chosen = list(layers.items())[-_SUPER:]
    figure, axes = grid(len(chosen), 6)
    for axis, (name, layer) in zip(axes, chosen, strict=True):
        show_kernel(axis, layer.super_weight[0, 0])
        axis.set_title(short(name), fontsize="x-small")
        axis.tick_params(labelsize="x-small")
    name_axes(figure)
    caption = (
        "The first super kernel of each layer: how much of its neighbours on the sheet a kernel "
        "takes on. All zero (white) means that the layer computes what a plain convolution does."
    )
    return Picture("coc_super_kernels", "CoC: super kernels", caption, figure)
