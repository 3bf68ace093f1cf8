"""DCLS: dilated convolution with learnable spacings.

Khalfaoui-Hassani, Pellegrini, Masquelier: Dilated convolution with learnable spacings. ICLR 2023.
https://arxiv.org/abs/2112.03740
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import UserValueError
from ..ops.dcls import INTERPOLATIONS, NORM_EPS, dcls_conv2d, dcls_kernel, dcls_taps, fit_weights
from ..ops.dispatch import in_full_precision
from .arguments import int_tuple, one_of, positive_int
from .base import LearnableConv, relative_error
from .bounds import clamp_to_window_
from .dcls_package import from_package
from .depthwise import DepthwiseTapsConv2d
from .sampling import points_at

__all__ = ["DCLSConv", "DCLSConv1d", "DCLSConv2d", "DCLSConv3d"]

# The paper's windows and counts by replaced kernel: ResNet-50's 3x3 and ConvNeXt-T's 7x7.
_WINDOWS = {3: 7, 7: 17}
_COUNTS = {(3, 3): 5, (7, 7): 34}
POSITION_INITS = ("normal", "grid")


class DCLSConv(LearnableConv):
    r"""Convolution whose kernel is a few elements at learned, real-valued positions of a window.

    Element e of a kernel has a weight :math:`w` and a position :math:`p = (p_y, p_x)` relative to
    the window's centre. With :math:`q = p + \lfloor S / 2 \rfloor`,
    :math:`f = \lfloor q \rfloor` and :math:`r = q - f`, the dense kernel is the sum over elements
    of (Eq. 2-5)

    .. math::
        K_{f_y, f_x} \mathrel{+}= w (1 - r_y)(1 - r_x),\quad
        K_{f_y + 1, f_x} \mathrel{+}= w\, r_y (1 - r_x),\\
        K_{f_y, f_x + 1} \mathrel{+}= w (1 - r_y)\, r_x,\quad
        K_{f_y + 1, f_x + 1} \mathrel{+}= w\, r_y\, r_x,

    and what falls outside the window is dropped. ``'gauss'`` and ``'triangle'`` spread each element
    by a normalised Gaussian or tent of learnable width instead. The output has the shape that
    ``nn.Conv2d`` with the same arguments gives.

    With ``learned_axes`` the kernel is dense, and of the replaced kernel's size, along the other
    axes: every dense cell has elements of its own (the paper's 2-1D, 3-1D and 3-2D).

    Parameters: ``weight`` (out, in / groups * dense cells, count), ``positions`` (learned axes,
    out, in / groups * dense cells, count) in cells, normal with standard deviation 0.5 and
    clamped to :math:`[-\lfloor S / 2 \rfloor, \lfloor (S - 1) / 2 \rfloor]` after every optimizer
    step; with a learnable width also ``width``, of the shape of ``positions``. An ``init_cfg`` for
    ``Conv2d`` draws the weights, which are then scaled so that the constructed kernel has the drawn
    kernel's norm. It leaves widths, and positions unless ``position_init='grid'``, as they are.

    Args:
        in_channels ... padding_mode: as ``nn.Conv2d``; ``dilation`` dilates the constructed kernel.
        kernel_count: elements per kernel. Default: 34 for 7x7, 5 for 3x3, else the kernel's cells
            along the learned axes divided by the parameters of an element (3 in two dimensions),
            rounded down, at least 1.
        dilated_kernel_size: the window along the learned axes, at least ``kernel_size`` and of its
            parity on each. Default: 17 for 7, 7 for 3, else twice the kernel size, plus one if the
            kernel size is odd.
        interpolation: ``'bilinear'``, ``'gauss'`` or ``'triangle'``. Default: ``'bilinear'``.
        learn_width: whether ``'gauss'`` and ``'triangle'`` learn a width per element and axis; if
            not, it stays at its start (0.5 cells and 1 cell). Default: ``True``.
        learned_axes: spatial axes along which positions are learned. Default: all.
        position_init: where elements start: ``'normal'``, drawn from N(0, 0.5) as in the paper, or
            ``'grid'``, on the largest cells of a drawn plain kernel. Default: ``'normal'``.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument outside what is allowed.
    """

    optim_policy = {
        "positions": dict(lr_mult=5.0, decay_mult=0.0),
        "width": dict(decay_mult=0.0),
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        kernel_count: int | None = None,
        dilated_kernel_size: int | tuple[int, ...] | None = None,
        interpolation: str = "bilinear",
        learn_width: bool = True,
        learned_axes: Sequence[int] | None = None,
        position_init: str = "normal",
    ) -> None:
        geometry = stride, padding, dilation, groups, bias, padding_mode
        super().__init__(in_channels, out_channels, kernel_size, *geometry)
        self.interpolation = one_of("interpolation", interpolation, INTERPOLATIONS)
        self.position_init = one_of("position_init", position_init, POSITION_INITS)
        axes = range(self.spatial_dims)
        self.learned_axes = tuple(axes if learned_axes is None else sorted(set(learned_axes)))
        if not self.learned_axes or any(a not in axes for a in self.learned_axes):
            raise UserValueError(f"learned_axes: {learned_axes!r}; allowed are {list(axes)}")
        # The replaced kernel along the learned axes, and in front of them the dense cells.
        self._learned_size = tuple(self.kernel_size[a] for a in self.learned_axes)
        self._dense_axes = tuple(a for a in axes if a not in self.learned_axes)
        self._dense_size = tuple(self.kernel_size[a] for a in self._dense_axes)
        if kernel_count is None:
            numbers = 1 + len(self.learned_axes)
            least = max(1, math.prod(self._learned_size) // numbers)
            kernel_count = _COUNTS.get(self._learned_size, least)
        self.kernel_count = positive_int("kernel_count", kernel_count)
        if dilated_kernel_size is None:
            dilated_kernel_size = tuple(_WINDOWS.get(k, 2 * k + k % 2) for k in self._learned_size)
        self.dilated_kernel_size = int_tuple(
            "dilated_kernel_size", dilated_kernel_size, len(self.learned_axes), 1
        )
        for s, k in zip(self.dilated_kernel_size, self._learned_size, strict=True):
            if s < k or (s - k) % 2:
                raise UserValueError(
                    f"dilated_kernel_size: {self.dilated_kernel_size}; each side must be at least "
                    f"that of kernel_size={self.kernel_size} and differ from it by an even number, "
                    "so that the padding stays symmetric"
                )
        per_group = in_channels // groups * math.prod(self._dense_size)
        shape = (out_channels, per_group, self.kernel_count)
        self.weight = nn.Parameter(torch.empty(shape))
        self.positions = nn.Parameter(torch.empty(len(self.learned_axes), *shape))
        self.learn_width = learn_width and interpolation != "bilinear"
        width = torch.empty_like(self.positions.data) if interpolation != "bilinear" else None
        if self.learn_width:
            self.width = nn.Parameter(width)
        else:
            self.register_buffer("width", width, persistent=False)
        # The layer whose positions this one uses, in a tuple that nn.Module does not register.
        self._position_owner: tuple[DCLSConv, ...] = ()
        self._position_users: list[DCLSConv] = []
        # The load in progress and its plain kernel, which the layers that share positions await.
        self._plain_kernel: tuple[object, Tensor] | None = None
        self.reset_parameters()
        self._watch_bounds("positions")

    @property
    def position_owner(self) -> "DCLSConv":
        """The layer that holds the positions: this one, unless it shares another's."""
        return self._position_owner[0] if self._position_owner else self

    def share_positions(self, owner: "DCLSConv") -> None:
        """Use ``owner``'s positions from now on; only ``owner`` registers and saves them.

        Raises:
            ValueError: the two layers differ in their window or in the shape of their positions.
        """
        if owner.position_owner is not owner:
            owner = owner.position_owner
        mine = (self.position_owner.positions.shape, self.dilated_kernel_size)
        theirs = (owner.positions.shape, owner.dilated_kernel_size)
        if mine != theirs:
            raise UserValueError(
                f"share_positions: shape and window are {mine}, but the owner's are {theirs}"
            )
        if owner is not self:
            del self.positions
            self.bounded_shapes = {}
            self._position_owner = (owner,)
            owner._position_users.append(self)

    def reset_parameters(self) -> None:
        """Draw weights as ``nn.Conv2d``, positions as ``position_init`` says; set the widths."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)
        if self.width is not None:
            nn.init.constant_(self.width, 0.23 if self.interpolation == "gauss" else 0.0)
        if self.position_owner is self:
            nn.init.normal_(self.positions, 0, 0.5)
            self.clamp_parameters()
            if self.position_init == "grid":
                self.init_from_conv_weight_(self._equivalent_conv().weight.data)

    @torch.no_grad()
    def clamp_parameters(self) -> None:
        if self.position_owner is self:
            clamp_to_window_(self.positions, self.dilated_kernel_size)

    @torch.no_grad()
    def edge_fraction(self) -> Tensor:
        """Fraction of the elements that lie on the window's edge; if large, widen the window."""
        positions = self.position_owner.positions
        at_edge = torch.zeros_like(positions[0], dtype=torch.bool)
        for along, cells in zip(positions, self.dilated_kernel_size, strict=True):
            at_edge |= (along <= -(cells // 2)) | (along >= (cells - 1) // 2)
        return at_edge.float().mean()

    @property
    def macs_per_output(self) -> int:
        """Every cell of the constructed kernel is multiplied."""
        window = math.prod(self._dense_size) * math.prod(self.dilated_kernel_size)
        return self.in_channels // self.groups * window

    def dense_kernel(self) -> Tensor:
        """The constructed kernel, ``(out, in / groups, *window)``."""
        elements = self.weight, self.position_owner.positions, self.dilated_kernel_size
        kernel = dcls_kernel(*elements, self.interpolation, self.width)
        if not self._dense_axes:
            return kernel
        # Dense axes come first: put every axis in its place.
        kernel = kernel.unflatten(1, (-1, *self._dense_size))
        axes = (*self._dense_axes, *self.learned_axes)
        return kernel.permute(0, 1, *(2 + axes.index(a) for a in range(self.spatial_dims)))

    def _learned_axes_last(self, weight: Tensor) -> Tensor:
        """``(out, in / groups, *kernel_size)`` to ``(out, in / groups * dense, *learned)``."""
        moved = weight.permute(0, 1, *(2 + a for a in (*self._dense_axes, *self.learned_axes)))
        return moved.flatten(1, 1 + len(self._dense_axes))

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``(N, in_channels, H, W)`` to ``nn.Conv2d``'s ``(N, out_channels, H', W')``."""
        if self._dense_axes or self.spatial_dims != 2:
            return self._convolve(input, self.dense_kernel())
        window = self.dilated_kernel_size
        padded, geometry = self._padded(input, window)
        elements = self.weight, self.position_owner.positions, window, self.bias
        options = dict(interpolation=self.interpolation, width=self.width)
        return dcls_conv2d(padded, *elements, *geometry, **options)

    def sampling(self, locations: Tensor, shares: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
        """The elements' positions and weights, one after the other."""
        if self._dense_axes:
            return super().sampling(locations, shares, input)
        steps = self.position_owner.positions.flatten(1).T
        steps = steps + steps.new_tensor([size // 2 for size in self.dilated_kernel_size])
        points = points_at(locations, self, self.dilated_kernel_size, steps)
        return points, (shares[..., None] * self.weight.abs().flatten(1)).flatten(1)

    @property
    def has_taps(self) -> bool:
        """Whether :meth:`to_taps` supports this kind of layer."""
        return (
            self.interpolation == "bilinear"
            and self.spatial_dims == len(self.learned_axes) == 2
            and self.groups == self.in_channels == self.out_channels
        )

    @torch.no_grad()
    def to_taps(self, rounded: bool = False) -> DepthwiseTapsConv2d:
        """The same convolution as a list of taps, four per element.

        Args:
            rounded: whether to move each element to its nearest cell, which leaves one tap per
                element but changes the outputs. Default: ``False``.

        Raises:
            ValueError: the layer is not depthwise and bilinear over two dimensions, or its padding
                is not symmetric zero padding.
        """
        sides, window = self._padding_sides(), self.dilated_kernel_size
        if not self.has_taps or self.padding_mode != "zeros" or sides[0::2] != sides[1::2]:
            raise UserValueError(
                f"{type(self).__name__}: only depthwise bilinear layers over two dimensions, "
                "symmetrically padded with zeros, have lists of taps"
            )
        positions = self.position_owner.positions
        if rounded:
            positions = positions.round()
        values, cells = in_full_precision(dcls_taps, self.weight, positions, window)
        if rounded:
            # At integer positions the first of an element's four cells gets its whole weight.
            values, cells = (t[:, :, : self.kernel_count] for t in (values, cells))
        extra = self._extra_padding(window)
        padding = tuple(p + e for p, e in zip(sides[-2::-2], extra, strict=True))
        geometry = window, self.stride, padding, self.dilation
        values = values[:, 0].to(self.weight.dtype)
        conv = DepthwiseTapsConv2d.from_taps(values, cells[:, 0], self.bias, *geometry)
        return conv.train(self.training)

    def exact_takeover_options(self) -> dict[str, int]:
        """One element per cell of the replaced kernel."""
        return dict(kernel_count=math.prod(self._learned_size))

    @torch.no_grad()
    def load_conv_weight_(self, weight: Tensor) -> float:
        """Put one element on each cell of the plain kernel; if there are too few, on the largest.

        Exact for ``'bilinear'`` and ``'triangle'`` if ``kernel_count`` is at least the number of
        kernel cells.
        """
        return self._fit_together({self: weight})[self]

    def take_over(self, weight: Tensor, load: object) -> None:
        """:meth:`LearnableConv.take_over`; layers that share positions choose the cells together.

        They take the cells with the largest sums of squares over their kernels.
        """
        owner = self.position_owner
        group = (owner, *owner._position_users)
        self._plain_kernel = load, weight.detach().to(self.weight)
        loaded = {
            layer: layer._plain_kernel[1]
            for layer in group
            if layer._plain_kernel is not None and layer._plain_kernel[0] is load
        }
        for layer, error in self._fit_together(loaded).items():
            layer._note_takeover(error)
        if len(loaded) == len(group):
            for layer in group:
                layer._plain_kernel = None

    @torch.no_grad()
    def _fit_together(self, plain: dict["DCLSConv", Tensor]) -> dict["DCLSConv", float]:
        """Fit layers that share positions to their plain kernels; return the relative errors."""
        plain = {layer: layer._learned_axes_last(w) for layer, w in plain.items()}
        cells = self._largest_cells(sum(w.double().square() for w in plain.values()))
        self.position_owner._move_to(cells)
        return {layer: layer._fit_weight(weight, cells) for layer, weight in plain.items()}

    @torch.no_grad()
    def init_from_conv_weight_(self, weight: Tensor) -> None:
        """Take weights from the drawn kernel's elements, scaled to its norm; keep all else.

        With ``position_init='grid'`` the elements move to the drawn kernel's largest cells.
        """
        plain = self._learned_axes_last(weight)
        drawn = plain.flatten(2)
        if self.position_init == "grid":
            cells = self._largest_cells(plain.square())
            drawn = drawn.gather(2, cells)
            if self.position_owner is self:
                self._move_to(cells)
        numbers = torch.arange(self.kernel_count, device=drawn.device) % drawn.shape[2]
        self.weight.copy_(drawn[..., numbers])
        built = self.dense_kernel().float().norm()
        if built > 0:
            self.weight.mul_((weight.float().norm() / built).to(weight.dtype))

    def _largest_cells(self, energy: Tensor) -> Tensor:
        """The cells of the plain kernel on which elements start, ``(out, in / groups, kept)``."""
        energy = energy.flatten(2)
        kept = min(self.kernel_count, energy.shape[2])
        return energy.topk(kept, dim=2).indices.sort(dim=2).values

    def _move_to(self, cells: Tensor) -> None:
        """Put the first elements on cells of the plain kernel; the others do not move."""
        index = cells
        for axis in reversed(range(len(self._learned_size))):
            k, window = self._learned_size[axis], self.dilated_kernel_size[axis]
            location = index % k + (window - k) // 2 - window // 2
            self.positions[axis, ..., : cells.shape[2]] = location.to(self.positions.dtype)
            index = index // k

    def _fit_weight(self, plain: Tensor, cells: Tensor) -> float:
        """Fit the weights of elements on ``cells`` to a plain kernel; return the relative error."""
        kept = cells.shape[2]
        sides = zip(self.dilated_kernel_size[::-1], self._learned_size[::-1], strict=True)
        target = nn.functional.pad(plain, [(s - k) // 2 for s, k in sides for _ in range(2)])
        self.weight.zero_()
        if self.learn_width:
            self.width.zero_()
        if self.interpolation == "gauss":
            elements = self.position_owner.positions[..., :kept], self.width[..., :kept]
            fitted = fit_weights(target, *elements, self.dilated_kernel_size, self.interpolation)
            self.weight[..., :kept] = fitted.to(plain.dtype)
        else:
            taps = plain.flatten(2).gather(2, cells)
            # A tent of one cell, divided by its sum plus the definition's epsilon.
            scale = 1 + NORM_EPS if self.interpolation == "triangle" else 1
            self.weight[..., :kept] = taps * scale
        built = self._learned_axes_last(self.dense_kernel())
        return relative_error(built, target)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, *lists) -> None:
        key = prefix + "positions"
        if isinstance(state_dict.get(prefix + "P"), Tensor):
            dense = bool(self._dense_axes)
            arguments = self.dilated_kernel_size, self.interpolation, dense
            state_dict = from_package(state_dict, prefix, *arguments)
        if self._position_owner and key in state_dict:
            # A checkpoint of unshared layers loads if its positions are the same.
            state_dict = dict(state_dict)
            positions = state_dict.pop(key).to(self.position_owner.positions)
            if not torch.equal(positions, self.position_owner.positions):
                lists[-1].append(
                    f"{key}: differs from the positions that this layer shares; build the model "
                    "without shared positions to load this checkpoint"
                )
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)

    def extra_repr(self) -> str:
        own = (
            f"kernel_count={self.kernel_count}, dilated_kernel_size={self.dilated_kernel_size}, "
            f"interpolation={self.interpolation!r}"
        )
        shared = ", shared positions" if self._position_owner else ""
        return f"{super().extra_repr()}, {own}{shared}"


class DCLSConv1d(DCLSConv):
    """:class:`DCLSConv` over one dimension."""

    spatial_dims = 1


class DCLSConv2d(DCLSConv):
    """:class:`DCLSConv` over two dimensions."""


class DCLSConv3d(DCLSConv):
    """:class:`DCLSConv` over three dimensions."""

    spatial_dims = 3
