"""Sampling points: where in an image a network looks to compute a feature."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserValueError
from ..layers import LearnableConv
from ..layers.sampling import cells_of, moved_steps, values_at, weight_of_cells

_CHUNK = 64  # locations


class Sampling(NamedTuple):
    """Points at which a layer reads, and how much of the feature comes through each.

    Args:
        points: ``(P, 2)``, rows and columns in pixels of the image; may lie outside of it.
        weights: ``(P,)``, not negative.
    """

    points: Tensor
    weights: Tensor


class Call(NamedTuple):
    """What a layer got, and its output ``(N, C, H, W)``."""

    args: tuple[Any, ...]
    output: Tensor


class SamplingPoints:
    """Where the layers of a network look in an image, on the way to one feature.

    A layer's own points are those of :meth:`~mmlearnconv.layers.LearnableConv.sampling`, the cells
    of a plain convolution larger than 1x1, or the moved cells of mmcv's deformable convolutions.
    Further back, they are taken at each output of a layer that the feature depends on, weighted
    with the gradient of the feature, :math:`\\sum_c |F_c(y, x)|`, with respect to that output. A
    cell (i, j) of a map of h x w lies at :math:`((i + 0.5) H / h - 0.5, (j + 0.5) W / w - 0.5)`.

    The network runs once, here.

    Args:
        model: a detector or segmentor of mmdet or mmseg (its backbone and neck run), or any module
            that takes a batch of images. In eval mode, if batch statistics are not to count.
        image: ``(C, H, W)``, as the model takes it.
        layers: names of further modules, as in ``named_modules()``, whose features are wanted.
            Default: only those of the layers that have points.

    Raises:
        ValueError: there is no such layer.
    """

    def __init__(self, model: nn.Module, image: Tensor, layers: Sequence[str] = ()) -> None:
        modules = dict(model.named_modules())
        for name in layers:
            if name not in modules:
                raise UserValueError(f"layer: {name!r} is no module of {type(model).__name__}")
        self.size = tuple(image.shape[1:])
        wanted = {n: m for n, m in modules.items() if n in layers or sampler_of(m)}
        #: The last call of each layer that ran, in the order in which they ran first.
        self.calls = _run(model, image, wanted)
        self._samplers = {name: sampler_of(modules[name]) for name in self.calls}

    def map_size(self, layer: str) -> tuple[int, int]:
        """Rows and columns of a layer's output.

        Raises:
            ValueError: the layer did not run, or gave no ``(N, C, H, W)``.
        """
        if layer not in self.calls:
            raise UserValueError(f"layer: {layer!r} does not run, or gives no (N, C, H, W)")
        height, width = self.calls[layer].output.shape[2:]
        return height, width

    def before(self, layer: str) -> list[str]:
        """Names of the layers with points that a layer's output depends on, as they ran.

        Raises:
            ValueError: the layer did not run, or gave no ``(N, C, H, W)``.
        """
        self.map_size(layer)
        names = [name for name in self.calls if self._samplers[name] and name != layer]
        outputs = [self.calls[name].output for name in names]
        feature = self.calls[layer].output.sum()
        gradients = torch.autograd.grad(feature, outputs, allow_unused=True, retain_graph=True)
        return [n for n, gradient in zip(names, gradients, strict=True) if gradient is not None]

    def of(
        self,
        layer: str,
        location: Sequence[int],
        limit: int | None = None,
        through: Sequence[str] | None = None,
    ) -> dict[str, Sampling]:
        """Points on the way to a layer's feature.

        Args:
            layer: name of the module whose feature it is.
            location: row and column of its output.
            limit: keep only so many points of each layer, those of largest weight, of its so many
                outputs that the feature depends on most. Default: all.
            through: names of the layers whose points are wanted. Default: all that have points.

        Returns:
            dict: a :class:`Sampling` for each layer that the feature depends on, by name, in the
            order in which they run.

        Raises:
            ValueError: the layer did not run, or ``location`` is not in its output.
        """
        height, width = self.map_size(layer)
        row, column = location
        if not (0 <= row < height and 0 <= column < width):
            where = f"is not in the layer's output of {height} x {width}"
            raise UserValueError(f"location: {tuple(location)} {where}")
        feature = self.calls[layer].output[0, :, row, column].abs().sum()
        names = [n for n in self.calls if self._samplers[n] and (through is None or n in through)]
        outputs = [self.calls[name].output for name in names]
        gradients = torch.autograd.grad(feature, outputs, allow_unused=True, retain_graph=True)
        found = {}
        for name, gradient in zip(names, gradients, strict=True):
            sampler, call = self._samplers[name], self.calls[name]
            if gradient is not None:
                points, weights = _at_outputs(sampler, call.args, gradient[0].abs(), limit)
                map_size = points.new_tensor(call.args[0].shape[2:])
                scale = points.new_tensor(self.size) / map_size
                found[name] = Sampling((points + 0.5) * scale - 0.5, weights)
        return found


def sampler_of(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """How to get a module's points, as :meth:`LearnableConv.sampling`; ``None`` for all others."""
    if isinstance(module, LearnableConv):
        return module.sampling if module.spatial_dims == 2 else None
    if hasattr(module, "conv_offset") and hasattr(module, "deform_groups"):
        return lambda *args: _deformable(module, *args)
    if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
        return lambda *args: _plain(module, *args)
    return None


def _run(model: nn.Module, image: Tensor, modules: dict[str, nn.Module]) -> dict[str, Call]:
    """The last call of each module, in the order in which they ran first."""
    calls: dict[str, Call] = {}

    def keep(name: str, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor) and output.ndim == 4:
            calls[name] = Call(args, output)
            # A copy goes on, since what follows may work in place.
            return output.clone()
        return output

    handles = [
        module.register_forward_hook(lambda _, args, output, name=name: keep(name, args, output))
        for name, module in modules.items()
    ]
    like = next(model.parameters(), image)
    run: Callable[[Tensor], Any] = getattr(model, "extract_feat", model)
    try:
        with torch.enable_grad():
            run(image.detach()[None].to(like).requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    return calls


@torch.no_grad()
def _at_outputs(
    sampler: Callable[..., tuple[Tensor, Tensor]],
    args: tuple[Any, ...],
    shares: Tensor,
    limit: int | None,
) -> Sampling:
    """Points of all outputs that have a share ``(C, h, w)``, in cells of the input."""
    totals = shares.sum(0)
    locations = totals.nonzero()
    if limit is not None and len(locations) > limit:
        strongest = totals.flatten().topk(limit).indices
        locations = torch.stack([strongest // totals.shape[1], strongest % totals.shape[1]], 1)
    points, weights = shares.new_zeros(0, 2), shares.new_zeros(0)
    for chunk in locations.split(_CHUNK):
        at, weight = sampler(chunk, values_at(chunk, shares), *args)
        points = torch.cat([points, at[weight > 0].to(points)])
        weights = torch.cat([weights, weight[weight > 0]])
        if limit is not None and len(weights) > limit:
            weights, kept = weights.topk(limit)
            points = points[kept]
    return Sampling(points, weights)


def _plain(
    conv: nn.Conv2d, locations: Tensor, shares: Tensor, input: Tensor
) -> tuple[Tensor, Tensor]:
    # Left, right, top, bottom, also where padding is a word.
    left, _, top, _ = conv._reversed_padding_repeated_twice
    cells = cells_of(conv.kernel_size, conv.weight)
    points = moved_steps(locations, conv.stride, (top, left), conv.dilation, cells)
    return points, weight_of_cells(conv.weight[None], shares)


def _deformable(
    conv: nn.Module, locations: Tensor, shares: Tensor, input: Tensor
) -> tuple[Tensor, Tensor]:
    """mmcv's ``DCN`` and ``DCNv2``."""
    made = values_at(locations, conv.conv_offset(input)[0])
    taps = conv.weight[0, 0].numel()
    count = 2 * conv.deform_groups * taps
    offsets = made[:, :count].unflatten(1, (-1, 2))
    steps = cells_of(conv.weight.shape[2:], conv.weight).repeat(conv.deform_groups, 1)
    points = moved_steps(locations, conv.stride, conv.padding, conv.dilation, steps) + offsets
    # The channels of a deformable group share its points.
    by_group = conv.weight.abs().flatten(2).unflatten(0, (conv.groups, -1))
    shares = shares.unflatten(1, (conv.groups, -1))
    by_channel = torch.einsum("lgo,goip->lgip", shares, by_group).flatten(1, 2)
    weights = by_channel.unflatten(1, (conv.deform_groups, -1)).sum(2).flatten(1)
    return points, weights * made[:, count:].sigmoid() if made.shape[1] > count else weights
