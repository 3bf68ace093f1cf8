"""Pictures of DCLS: where the elements went."""

import numpy as np

from ..analysis.stages import stage_of
from ..layers import DCLSConv2d
from .picture import SEQUENTIAL, Picture, grid, name_axes, name_panel, panels, short, show_kernel

_KERNELS = 12
_BINS = 5  # per cell, so that small moves are seen


def draw(layers: dict[str, DCLSConv2d]) -> list[Picture]:
    """Positions by stage, and the kernels of the last layer."""
    return [positions(layers), kernels(*list(layers.items())[-1])]


def positions(layers: dict[str, DCLSConv2d]) -> Picture:
    """Density and histograms of all elements' positions, a row per stage."""
    stages: dict[str, list[DCLSConv2d]] = {}
    for name, layer in layers.items():
        stages.setdefault(stage_of(name), []).append(layer)
    figure, axes = panels(len(stages), 2, 3.2, 2.4)
    for (stage, members), (density, histogram) in zip(stages.items(), axes, strict=True):
        owners = {layer.position_owner: None for layer in members}
        found = np.concatenate(
            [owner.positions.detach().float().cpu().flatten(1).numpy() for owner in owners], 1
        )
        window = members[0].dilated_kernel_size
        steps = [np.arange(size * _BINS + 1) / _BINS for size in window]
        edges = [s - size // 2 - 0.5 for s, size in zip(steps, window, strict=True)]
        counts, _, _ = np.histogram2d(*found, bins=edges)
        extent = (edges[1][0], edges[1][-1], edges[0][-1], edges[0][0])
        mesh = density.imshow(counts, cmap=SEQUENTIAL, extent=extent)
        density.set(title=short(stage), xlabel="column (cells)", ylabel="row (cells)")
        figure.colorbar(mesh, ax=density, label="elements")
        for along, label, cells in zip(found, ("rows", "columns"), edges, strict=True):
            histogram.hist(along, bins=cells, histtype="step", label=label)
        histogram.set(xlabel="position (cells)", ylabel="elements")
        histogram.legend(fontsize="small")
    caption = (
        "Where the elements of all kernels of a stage lie in their window, 0 being its centre: "
        "left their density, right the histograms of their rows and columns. High bars at the ends "
        "mean that elements press against the window: a larger one may help."
    )
    return Picture("dcls_positions", "DCLS: positions by stage", caption, figure)


def kernels(name: str, layer: DCLSConv2d) -> Picture:
    """The layer's kernels of largest norm, as convolved, with the elements' positions."""
    built = layer.dense_kernel().detach().flatten(0, 1)
    largest = built.flatten(1).norm(dim=1).argsort(descending=True)[:_KERNELS]
    places = layer.position_owner.positions.detach().flatten(1, 2).cpu()
    figure, axes = grid(len(largest), 6)
    for axis, index in zip(axes, largest.tolist(), strict=True):
        kernel = built[index]
        show_kernel(axis, kernel)
        # Positions count from cell S // 2, which for an even window is not its middle.
        shift = [size // 2 - (size - 1) / 2 for size in layer.dilated_kernel_size]
        axis.plot(places[1, index] + shift[1], places[0, index] + shift[0], "k.", markersize=3)
        name_panel(axis, f"kernel {index}")
    name_axes(figure)
    caption = (
        f"The {len(largest)} kernels of {name} with the largest norm, as they are convolved: red "
        "cells add, blue ones subtract, dots are the elements' learned positions."
    )
    return Picture("dcls_kernels", f"DCLS: kernels of {name}", caption, figure)
