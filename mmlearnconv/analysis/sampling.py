"""Sampling points: where in an image a network looks to compute a feature."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

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


class _Call(NamedTuple):
    """What a layer got and gave."""

    args: tuple[Any, ...]
    output: Tensor


def sampling_points(
    model: nn.Module,
    image: Tensor,
    layer: str,
    location: Sequence[int],
    limit: int | None = None,
) -> dict[str, Sampling]:
    """Where the layers of a network look, on the way to one feature.

    A layer's own points are those of :meth:`~mmlearnconv.layers.LearnableConv.sampling`, the cells
    of a plain convolution larger than 1x1, or the moved cells of mmcv's deformable convolutions.
    Further back, they are taken at each output of a layer that the feature depends on, weighted
    with the gradient of the feature, :math:`\\sum_c |F_c(y, x)|`, with respect to that output. A
    cell (i, j) of a map of h x w lies at :math:`((i + 0.5) H / h - 0.5, (j + 0.5) W / w - 0.5)`.

    Args:
        model: a detector or segmentor of mmdet or mmseg (its backbone and neck run), or any module
            that takes a batch of images. In eval mode, if batch statistics are not to count.
        image: ``(C, H, W)``, as the model takes it.
        layer: name of the module whose feature it is, as in ``named_modules()``.
        location: row and column of its output.
        limit: keep only the points of largest weight of each layer. Default: all.

    Returns:
        dict: a :class:`Sampling` for each layer that the feature depends on, by name, in the order
        in which they run.

    Raises:
        ValueError: there is no such layer, it does not run, its output is no ``(N, C, H, W)`` or
            smaller than ``location`` says.
    """
    modules = dict(model.named_modules())
    if layer not in modules:
        raise ValueError(f"layer: {layer!r} is no module of {type(model).__name__}")
    calls = _run(model, image, {n: m for n, m in modules.items() if n == layer or sampler_of(m)})
    if layer not in calls:
        raise ValueError(f"layer: {layer!r} does not run, or gives no (N, C, H, W)")
    output = calls[layer].output
    row, column = location
    if not (0 <= row < output.shape[2] and 0 <= column < output.shape[3]):
        size = tuple(output.shape[2:])
        raise ValueError(f"location: {tuple(location)} is not in the layer's output of {size}")
    feature = output[0, :, row, column].abs().sum()
    outputs = [call.output for call in calls.values()]
    gradients = torch.autograd.grad(feature, outputs, allow_unused=True)
    found = {}
    for (name, call), gradient in zip(calls.items(), gradients, strict=True):
        sampler = sampler_of(modules[name])
        if sampler is not None and gradient is not None:
            sampling = _at_outputs(sampler, call.args, gradient[0].abs(), limit)
            scale = [i / m for i, m in zip(image.shape[1:], call.args[0].shape[2:], strict=True)]
            factor = sampling.points.new_tensor(scale)
            found[name] = Sampling((sampling.points + 0.5) * factor - 0.5, sampling.weights)
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


def _run(model: nn.Module, image: Tensor, modules: dict[str, nn.Module]) -> dict[str, _Call]:
    """The last call of each module, in the order in which they ran first."""
    calls: dict[str, _Call] = {}

    def keep(name: str, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor) and output.ndim == 4:
            calls[name] = _Call(args, output)
            # A copy goes on, since what follows may work in place.
            return output.clone()
        return output

    handles = [
        module.register_forward_hook(lambda _, args, output, name=name: keep(name, args, output))
        for name, module in modules.items()
    ]
    device = next((p.device for p in model.parameters()), image.device)
    run: Callable[[Tensor], Any] = getattr(model, "extract_feat", model)
    try:
        with torch.enable_grad():
            run(image.detach()[None].to(device).requires_grad_())
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
    locations = shares.sum(0).nonzero()
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
