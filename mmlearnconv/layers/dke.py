"""DKE: differentiable kernel evolution, kernels whose taps move; and the active convolution unit.

Differentiable Kernel Evolution. ICCV 2019. Active convolution: Jeon, Kim, CVPR 2017,
https://arxiv.org/abs/1703.09076
"""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserValueError
from ..log import logger
from ..ops.dispatch import accumulate_dtype
from ..ops.dke import INTERPOLATIONS, dke_conv2d, dke_kernel, dke_response
from ..ops.geometry import under_middle
from .arguments import greater_than, one_of, positive_int
from .base import LearnableConv2d
from .sampling import points_at, values_at

__all__ = ["DKEConv2d"]

POSITION_INITS = ("normal", "grid")
# A Gaussian smooths, so a swap starts with a sharp one.
SWAP_ALPHA = 10.0


class DKEConv2d(LearnableConv2d):
    r"""Convolution whose taps have learned, real-valued positions, one set per input channel.

    :math:`O(x) = \sum_c \sum_y a_y(x) f_c(x + y) w_c(y) + b`, the value at a real position
    interpolated over the cells within ``radius``: :math:`f_c(x + y) = \sum_s G(s, y) f_c(x + s)`,
    :math:`G = e^{-\alpha \lVert s - y \rVert^2} / C`, C the sum over these cells, constant in the
    backward pass, so that :math:`\partial G / \partial y = 2 \alpha G (s - y)` (Eq. 13-15). The
    scores a are a 1x1 convolution of the input at x and start at one. With a dilation the lattice
    of cells is dilated.

    Parameters: ``weight`` (out, in / groups, points), ``positions`` (in, points, 2), row and column
    in cells from the kernel's centre, clamped to ``position_limit`` after every optimizer step;
    ``attention_weight`` (points, in) and ``attention_bias`` (points). Buffer: ``alpha``.

    Args:
        in_channels ... padding_mode: as ``nn.Conv2d``.
        points: taps per kernel. Default: one per cell of the replaced kernel.
        interpolation: ``'gauss'`` or ``'bilinear'``. Default: ``'gauss'``.
        alpha: sharpness of the Gaussian, above 0. Default: 2.
        radius: reach of the Gaussian in cells, above the square root of 0.5. Default: 2.
        shared_positions: whether all input channels have the same positions. Default: ``False``.
        attention: whether to learn scores; without them the layer is static. Default: ``True``.
        position_init: ``'normal'``, N(0, 1), or ``'grid'``, the replaced kernel's cells. Default:
            ``'normal'``.
        position_limit: bound of the positions on each axis, in cells from the centre. Default: 4,
            or the reach of the replaced kernel if that is larger.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument outside what is allowed.
    """

    optim_policy = {"positions": dict(decay_mult=0.0)}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        points: int | None = None,
        interpolation: str = "gauss",
        alpha: float = 2.0,
        radius: float = 2.0,
        shared_positions: bool = False,
        attention: bool = True,
        position_init: str = "normal",
        position_limit: float | None = None,
    ) -> None:
        geometry = stride, padding, dilation, groups, bias, padding_mode
        super().__init__(in_channels, out_channels, kernel_size, *geometry)
        self.interpolation = one_of("interpolation", interpolation, INTERPOLATIONS)
        self.position_init = one_of("position_init", position_init, POSITION_INITS)
        alpha = greater_than("alpha", alpha, 0)
        self.radius = greater_than("radius", radius, math.sqrt(0.5))
        cells = self.kernel_size[0] * self.kernel_size[1]
        self.points = cells if points is None else positive_int("points", points)
        reach = (max(self.kernel_size) - 1) / 2
        self.position_limit = max(4.0, reach) if position_limit is None else float(position_limit)
        if self.position_limit < 0:
            raise UserValueError(f"position_limit: {position_limit!r}; must not be negative")
        # A window of the kernel's parity that holds every cell which a position in bounds reads.
        far = self.position_limit + (self.radius if interpolation == "gauss" else 1)
        self.window = tuple(
            max(k, 2 * math.floor(far) + 1 if k % 2 else 2 * math.floor(far + 0.5))
            for k in self.kernel_size
        )
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, self.points))
        sets = 1 if shared_positions else in_channels
        self.positions = nn.Parameter(torch.empty(sets, self.points, 2))
        self.register_buffer("alpha", torch.tensor(alpha))
        self.attention = attention
        if attention:
            self.attention_weight = nn.Parameter(torch.empty(self.points, in_channels))
            self.attention_bias = nn.Parameter(torch.empty(self.points))
        self.reset_parameters()
        self._watch_bounds("positions")

    @property
    def is_static(self) -> bool:
        return not self.attention

    def reset_parameters(self) -> None:
        """Draw weights as ``nn.Conv2d`` does, and positions; all scores start at one."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)
        nn.init.normal_(self.positions)
        if self.position_init == "grid":
            kept = min(self.points, len(self._grid()))
            self.positions.data[:, :kept] = self._grid()[:kept]
        self.clamp_parameters()
        self._neutral_attention()

    def _neutral_attention(self) -> None:
        if self.attention:
            nn.init.zeros_(self.attention_weight)
            nn.init.ones_(self.attention_bias)

    def _grid(self) -> Tensor:
        """The replaced kernel's cells, ``(kH * kW, 2)``, from its centre."""
        sides = ([i - (k - 1) / 2 for i in range(k)] for k in self.kernel_size)
        return torch.tensor(list(product(*sides)), device=self.positions.device)

    @torch.no_grad()
    def clamp_parameters(self) -> None:
        self.positions.clamp_(-self.position_limit, self.position_limit)

    @torch.no_grad()
    def load_conv_weight_(self, weight: Tensor) -> float:
        """Put points on the grid, sharpen the Gaussian, fit the weights, and set all scores to one.

        If there are fewer points than cells, they take the cells where an input channel's kernels
        are largest. The weights are a least-squares fit.
        """
        kept = min(self.points, weight.shape[2] * weight.shape[3])
        energy = weight.flatten(2).unflatten(0, (self.groups, -1)).square().sum(1).flatten(0, 1)
        if len(self.positions) == 1:
            energy = energy.sum(0, keepdim=True)
        cells = energy.topk(kept, 1).indices.sort(1).values
        self.positions[:, :kept] = self._grid().to(weight.dtype)[cells]
        self.clamp_parameters()
        if self.interpolation == "gauss":
            self.alpha.fill_(SWAP_ALPHA)
        self._neutral_attention()
        # Least squares, for every input channel: gram (in, p, p), moment (in, p, out / groups). The
        # window is large beside the plain kernel: only products with it are formed.
        response = self._response().double()[:, :kept]
        if kept == weight.shape[2] * weight.shape[3]:
            response = response[:1]  # All channels have the same grid.
        gram = response.flatten(2) @ response.flatten(2).mT
        target = weight.double().unflatten(0, (self.groups, -1)).transpose(1, 2)
        target = target.flatten(0, 1).flatten(2)
        moment = self._in_place_of_plain(response).flatten(2) @ target.mT
        solved = torch.linalg.solve(gram, moment).to(weight.dtype)
        self.weight.zero_()
        self.weight[..., :kept] = (
            solved.unflatten(0, (self.groups, -1)).permute(0, 3, 1, 2).flatten(0, 1)
        )
        solved = solved.double()
        missed = target.square().sum() + (solved * (gram @ solved - 2 * moment)).sum()
        return (missed.clamp_min(0) / target.square().sum().clamp_min(1e-300)).sqrt().item()

    @torch.no_grad()
    def init_from_conv_weight_(self, weight: Tensor) -> None:
        """Take weights from the drawn kernel's elements, scaled to its norm; all else stays.

        The norm is that of the layer's kernel with all scores one.
        """
        drawn = weight.flatten(2)
        numbers = torch.arange(self.points, device=drawn.device) % drawn.shape[2]
        self.weight.copy_(drawn[..., numbers])
        # The window is large beside the kernel: the norm comes from products of responses.
        response = self._response().flatten(2)
        gram = (response @ response.mT).expand(self.in_channels, -1, -1)
        gram = gram.unflatten(0, (self.groups, -1))
        by_group = self.weight.to(gram.dtype).unflatten(0, (self.groups, -1))
        built = torch.einsum("gocp,gcpq,gocq->", by_group, gram, by_group).clamp_min(0).sqrt()
        if built > 0:
            self.weight.mul_((weight.float().norm() / built).to(weight.dtype))

    def _in_place_of_plain(self, window: Tensor) -> Tensor:
        """The cells of a window that the plain kernel's lie on."""
        for axis, (s, k) in enumerate(zip(self.window, self.kernel_size, strict=True)):
            window = window.narrow(axis - 2, (s - k) // 2, k)
        return window

    def _response(self) -> Tensor:
        """G, ``(in or 1, points, rows, columns)``, in float32 even if the model is in half."""
        positions = self.positions.to(accumulate_dtype(self.positions.dtype))
        return dke_response(positions, self.window, *self._gaussian.values())

    @property
    def _gaussian(self) -> dict[str, Any]:
        return dict(interpolation=self.interpolation, alpha=self.alpha, radius=self.radius)

    def dense_kernel(self) -> Tensor:
        """The kernel without attention, ``(out, in / groups, *window)``."""
        if self.attention:
            raise UserValueError("DKEConv2d: with attention the kernel depends on the input")
        arguments = self.weight, self.positions, self.window, self.groups
        return dke_kernel(*arguments, **self._gaussian)

    @property
    def macs_per_output(self) -> int:
        return self.weight[0].numel()

    def macs(self, output_size: Sequence[int]) -> dict[str, int]:
        """Adds the sampling, with as many cells per position as the disc's area, and the scores."""
        cells = 4 if self.interpolation == "bilinear" else round(math.pi * self.radius**2)
        sampled = self.in_channels * self.points * math.prod(output_size)
        parts = super().macs(output_size) | dict(sampling=cells * sampled)
        # The scores, and their product with what was sampled.
        return parts | dict(attention=2 * sampled) if self.attention else parts

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``(N, in_channels, H, W)`` to ``nn.Conv2d``'s ``(N, out_channels, H', W')``."""
        padded, geometry = self._padded(input, self.window)
        return dke_conv2d(
            padded,
            self.weight,
            self.positions,
            self.window,
            self.bias,
            *geometry,
            attention=self._scores(padded, geometry.padding) if self.attention else None,
            **self._gaussian,
        )

    def sampling(self, locations: Tensor, shares: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
        """Each channel's positions, its weights times the scores, ``(L, in * points, 2)``."""
        middle = self.positions.new_tensor([(size - 1) / 2 for size in self.window])
        steps = (self.positions + middle).expand(self.in_channels, -1, -1).flatten(0, 1)
        points = points_at(locations, self, self.window, steps)
        by_group = self.weight.abs().unflatten(0, (self.groups, -1))
        shares = shares.unflatten(1, (self.groups, -1))
        weights = torch.einsum("lgo,goip->lgip", shares, by_group).flatten(1, 2)
        if self.attention:
            padded, geometry = self._padded(input, self.window)
            scores = values_at(locations, self._scores(padded, geometry.padding)[0])
            weights = weights * scores.abs()[:, None]
        return points, weights.flatten(1)

    def _scores(self, padded: Tensor, padding: Sequence[int]) -> Tensor:
        """a at the output locations: the input under the window's middle, zero outside the map."""
        middle = under_middle(padded, self.window, padding, self.dilation)
        weight = self.attention_weight[..., None, None]
        return F.conv2d(middle, weight, self.attention_bias, self.stride)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.positions.is_meta:
            return
        before = self.positions.detach().clone()
        # The window holds no cells around positions beyond the limit.
        self.clamp_parameters()
        beyond = (self.positions.detach() - before).abs().nan_to_num().max().item()
        if beyond > 0:
            logger.warning(
                f"{prefix}positions: the checkpoint's lie up to {beyond:g} cells beyond "
                f"position_limit={self.position_limit:g} and were moved to it, which changes the "
                "outputs; build the layer with the limit that it was trained with"
            )

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, points={self.points}, interpolation={self.interpolation!r}, "
            f"shared_positions={len(self.positions) == 1}, attention={self.attention}"
        )
