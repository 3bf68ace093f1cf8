"""A picture with its words, and what all of them share."""

import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

# Of a diverging picture, a sequential one, and of marks over a photograph.
DIVERGING, SEQUENTIAL, MARK = "RdBu_r", "viridis", "#ff6a00"
_DPI = 100


@dataclass(frozen=True)
class Picture:
    """A figure and what it shows.

    Args:
        name: for a file, without suffix.
        title: a heading.
        caption: what is seen, in plain words, for those who do not see it too.
        figure: of matplotlib.
    """

    name: str
    title: str
    caption: str
    figure: Figure

    @cached_property
    def png(self) -> bytes:
        """The picture as a PNG file."""
        file = io.BytesIO()
        FigureCanvasAgg(self.figure)
        self.figure.savefig(file, format="png", dpi=_DPI)
        return file.getvalue()

    def pixels(self) -> np.ndarray:
        """The picture as ``(H, W, 3)`` RGB, as visualisers of mmengine take it."""
        canvas = FigureCanvasAgg(self.figure)
        self.figure.set_dpi(_DPI)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def panels(
    rows: int, columns: int, width: float = 2.4, height: float = 2.4
) -> tuple[Figure, np.ndarray]:
    """A figure of panels, and their axes ``(rows, columns)``; sizes of a panel in inches."""
    figure = Figure(figsize=(width * columns + 0.6, height * rows + 0.4), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def grid(
    count: int, columns: int, width: float = 1.6, height: float = 1.7
) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, in rows of at most ``columns``."""
    columns = min(count, columns)
    figure, axes = panels(-(-count // columns), columns, width, height)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    return figure, list(axes.flat[:count])


def show_kernel(axis: Axes, kernel: Tensor) -> None:
    """A kernel with zero white, and ticks that count cells from its centre."""
    values = kernel.detach().float().cpu().numpy()
    largest = max(float(np.abs(values).max()), 1e-12)
    rows, columns = values.shape
    up, left = (rows - 1) / 2, (columns - 1) / 2
    extent = (-left - 0.5, left + 0.5, up + 0.5, -up - 0.5)
    axis.imshow(values, cmap=DIVERGING, vmin=-largest, vmax=largest, extent=extent)


def name_panel(axis: Axes, title: str) -> None:
    """A small panel's title, and ticks of its size."""
    axis.set_title(title, fontsize="small")
    axis.tick_params(labelsize="x-small")


def name_axes(figure: Figure) -> None:
    """Rows and columns of kernels, named once for all panels."""
    figure.supxlabel("column (cells)", fontsize="small")
    figure.supylabel("row (cells)", fontsize="small")


def short(name: str) -> str:
    """A module's name in a panel's title."""
    return name if len(name) < 26 else "..." + name[-23:]
