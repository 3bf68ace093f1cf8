"""The contract that every convolution of this package keeps."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserValueError
from ..ops.depthwise import convolve
from ..ops.geometry import Geometry, conv_output_size
from . import bounds
from .arguments import PADDING_MODES, check_map, conv_padding, int_tuple, one_of, positive_int
from .options import CheckedOptions
from .sampling import cells_at

__all__ = ["LearnableConv", "LearnableConv2d"]

# Beyond it a model that took over plain weights does not start where the plain one ended.
LARGE_ERROR = 0.01
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class LearnableConv(CheckedOptions, nn.Module):
    """Drop-in replacement for ``nn.Conv1d``, ``nn.Conv2d`` and ``nn.Conv3d``.

    Written for ``spatial_dims`` dimensions; the docstrings speak of two.

    Subclasses add ``forward`` and their parameters; the one that replaces the convolution's weight
    is called ``weight``. In return ``mmcv.cnn.ConvModule`` can use them, plain checkpoints load
    into them through :meth:`load_conv_weight_`, an ``init_cfg`` for plain convolutions initialises
    them through :meth:`init_from_conv_weight_`, and :meth:`clamp_parameters` keeps their parameters
    in bounds.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: nominal kernel size; fixes the output shape.
        stride: as ``nn.Conv2d``. Default: 1.
        padding: as ``nn.Conv2d``, also ``'same'`` and ``'valid'``. Default: 0.
        dilation: as ``nn.Conv2d``. Default: 1.
        groups: as ``nn.Conv2d``. Default: 1.
        bias: as ``nn.Conv2d``. Default: ``True``.
        padding_mode: as ``nn.Conv2d``; cells beyond the nominal kernel's padding are zero in every
            mode. Default: ``'zeros'``.

    Raises:
        TypeError: a size that is neither an integer nor one integer per axis.
        ValueError: an argument outside what ``nn.Conv2d`` allows.
    """

    spatial_dims = 2
    transposed = False

    #: Whether the kernel is the same for every input, so that :meth:`to_conv` can give it.
    is_static = True

    #: Learning-rate and weight-decay multipliers: parameter -> ``lr_mult`` and ``decay_mult``.
    optim_policy: dict[str, dict[str, float]] = {}

    #: Whether ``optim_policy`` was applied, or a warning logged that it was not.
    _policy_applied = False

    #: Relative error of the kernel, if it was taken over from a plain convolution and no other
    #: checkpoint was loaded since.
    takeover_error: float | None = None

    #: Whether the log has said so.
    _takeover_reported = False

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
    ) -> None:
        super().__init__()
        self.in_channels = positive_int("in_channels", in_channels)
        self.out_channels = positive_int("out_channels", out_channels)
        self.groups = positive_int("groups", groups)
        self.kernel_size = int_tuple("kernel_size", kernel_size, self.spatial_dims, 1)
        self.stride = int_tuple("stride", stride, self.spatial_dims, 1)
        self.dilation = int_tuple("dilation", dilation, self.spatial_dims, 1)
        self.output_padding = (0,) * self.spatial_dims
        self.padding = conv_padding(padding, self.spatial_dims, self.stride)
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) % groups:
                raise UserValueError(
                    f"groups: {groups} does not divide {name}={getattr(self, name)}"
                )
        self.padding_mode = one_of("padding_mode", padding_mode, PADDING_MODES)
        self.register_parameter("bias", nn.Parameter(torch.empty(out_channels)) if bias else None)
        #: Shapes of the parameters that :meth:`clamp_parameters` keeps in bounds.
        self.bounded_shapes: dict[str, torch.Size] = {}

    def _watch_bounds(self, *names: str) -> None:
        """Clamp these parameters to their bounds after every optimizer step."""
        self.bounded_shapes = {name: getattr(self, name).shape for name in names}
        bounds.watch(self)

    @property
    def conv_weight_shape(self) -> tuple[int, ...]:
        """Shape of the plain convolution's weight."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    # What a subclass may or must override.

    def load_conv_weight_(self, weight: Tensor) -> float:
        """Set the parameters to compute, as nearly as possible, what a plain convolution does.

        Args:
            weight: the plain convolution's, of shape ``conv_weight_shape``.

        Returns:
            float: the relative error of the kernel.

        Raises:
            ValueError: the layer cannot compute what a plain convolution does.
        """
        raise NotImplementedError

    def init_from_conv_weight_(self, weight: Tensor) -> None:
        """Initialise for training from a freshly drawn plain kernel.

        The output gets the scale of the plain convolution's; positions, widths and whatever an
        option chose stay as they are. An ``init_cfg`` calls it. Default:
        :meth:`load_conv_weight_`.

        Args:
            weight: the drawn kernel, of shape ``conv_weight_shape``.
        """
        self.load_conv_weight_(weight)

    def exact_takeover_options(self) -> dict[str, Any]:
        """Options that a swap adds, unless its ``conv_cfg`` has them, to be exact."""
        return {}

    def dense_kernel(self) -> Tensor:
        """The kernel that is convolved with the input; only for static layers."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        raise NotImplementedError

    def sampling(self, locations: Tensor, shares: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
        """Where the layer looks, and with which weight. Default: at its kernel's cells.

        Args:
            locations: ``(L, 2)``, rows and columns of the output.
            shares: ``(L, out_channels)``, how much each feature there counts.
            input: ``(1, in_channels, H, W)``.

        Returns:
            tuple: points, ``(L, P, 2)``, rows and columns in cells of the input; and their weights,
            ``(L, P)``, shares times absolute values of the kernel.
        """
        return cells_at(locations, shares, self, self._kernels_at(locations, input))

    def _kernels_at(self, locations: Tensor, input: Tensor) -> Tensor:
        """At each output location, ``(L or 1, out, in / groups, rows, columns)``."""
        return self.dense_kernel()[None]

    def output_size(self, input_size: Sequence[int]) -> tuple[int, ...]:
        """Rows and columns of the output for an input of ``input_size``, as for ``nn.Conv2d``."""
        sides, zeros = self._padding_sides(), (0,) * self.spatial_dims
        padded = [
            size + before + after
            for size, before, after in zip(input_size, sides[-2::-2], sides[::-2], strict=True)
        ]
        return conv_output_size(padded, self.kernel_size, self.stride, zeros, self.dilation)

    def macs(self, output_size: Sequence[int]) -> dict[str, int]:
        """Multiply-adds for one image, as the layer's paper counts them.

        Args:
            output_size: rows and columns of the output, ``(H', W')``.

        Returns:
            dict: counts by part; ``'convolution'`` is the convolution itself, with the kernel that
            is used. Work on the weights alone, which folding does once, is not counted.
        """
        return dict(convolution=prod(output_size) * self.out_channels * self.macs_per_output)

    @property
    def macs_per_output(self) -> int:
        """Multiply-adds per output element: input channels per group times taps of the kernel."""
        return self.in_channels // self.groups * prod(self.kernel_size)

    def clamp_parameters(self) -> None:
        """Bring positions back into their bounds; called after every optimizer step.

        The constructor of a layer with bounds, or with an ``optim_policy``, must end with
        ``_watch_bounds``.
        """

    # What subclasses inherit.

    def init_weights(self) -> None:
        """Do nothing: the constructor drew the parameters, and an ``init_cfg`` comes by ``apply``.

        Present because ``mmcv.cnn.ConvModule`` re-initialises convolutions that lack it.
        """

    def apply(self, fn: Callable[[nn.Module], None]) -> "LearnableConv":
        """``nn.Module.apply``; an ``init_cfg`` for plain convolutions initialises this layer too.

        mmengine's initialisers select modules by class name and fill ``weight`` in place. They, and
        no other functions, are therefore applied to a plain convolution of the replaced geometry
        first; if they fill it, the layer starts from what they drew. Every other function is
        applied to the layer.
        """
        if not _is_initializer(fn) or self._device.type == "meta":
            return super().apply(fn)
        twin = self._equivalent_conv(drawn=False)
        fn(twin)
        filled = [name for name, p in twin.named_parameters() if not p.isnan().all()]
        if not filled:
            return super().apply(fn)
        if "weight" in filled:
            self.init_from_conv_weight_(twin.weight.data)
        if "bias" in filled:
            self.bias.data.copy_(twin.bias.data)
        return self

    def to_conv(self) -> nn.Conv2d:
        """An ``nn.Conv2d`` that computes the same, with its own copy of the weights.

        Raises:
            ValueError: there is none: the kernel depends on the input, or reaches beyond a padding
                that is not zero padding.
        """
        if not self.is_static:
            raise UserValueError(f"{type(self).__name__}: the kernel depends on the input")
        kernel = self.dense_kernel().detach()
        extra = self._extra_padding(kernel.shape[2:])
        if self.padding_mode != "zeros" and any(extra):
            raise UserValueError(
                f"{type(self).__name__}: its {tuple(kernel.shape[2:])} kernel reaches beyond "
                f"the {self.padding_mode!r} padding of a {self.kernel_size} one; only padding with "
                "zeros can be widened"
            )
        padding = self.padding
        if padding == "valid":
            padding = (0,) * self.spatial_dims
        if padding != "same":
            padding = tuple(p + e for p, e in zip(padding, extra, strict=True))
        with torch.random.fork_rng(devices=[]):
            conv: Any = CONVOLUTIONS[self.spatial_dims](
                self.in_channels,
                self.out_channels,
                tuple(kernel.shape[2:]),
                self.stride,
                padding,
                self.dilation,
                self.groups,
                self.bias is not None,
                self.padding_mode,
            )
        conv = conv.to(device=self.weight.device, dtype=self.weight.dtype)
        conv.weight.data.copy_(kernel)
        if self.bias is not None:
            conv.bias.data.copy_(self.bias.data)
        return conv.train(self.training)

    @property
    def _device(self) -> torch.device:
        """Where the layer's parameters are."""
        return next(self.parameters()).device

    def _equivalent_conv(self, drawn: bool = True) -> nn.Conv2d:
        """A plain convolution of the replaced geometry; filled with NaN if not ``drawn``."""
        conv = nn.utils.skip_init(
            CONVOLUTIONS[self.spatial_dims],
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            groups=self.groups,
            bias=self.bias is not None,
        )
        if drawn:
            conv.reset_parameters()
        else:
            for parameter in conv.parameters():
                nn.init.constant_(parameter, math.nan)
        return conv.to(device=self._device, dtype=next(self.parameters()).dtype)

    def _extra_padding(self, size: Iterable[int]) -> tuple[int, ...]:
        """Zeros per side that give a window of ``size`` the nominal kernel's output shape."""
        return tuple(
            d * (s - k) // 2 for d, s, k in zip(self.dilation, size, self.kernel_size, strict=True)
        )

    def _convolve(self, input: Tensor, kernel: Tensor) -> Tensor:
        """The layer's convolution with a kernel of any size of ``kernel_size``'s parity."""
        input, geometry = self._padded(input, kernel.shape[2:])
        return convolve(input, kernel, self.bias, *geometry)

    def _padded(
        self, input: Tensor, window: Sequence[int] | None = None
    ) -> tuple[Tensor, Geometry]:
        """Apply explicit padding; return the input and the geometry left for the operation.

        Args:
            input: ``(N, in_channels, H, W)``.
            window: rows and columns of the kernel in use, which reaches beyond the nominal one into
                zeros. Default: the nominal kernel's.

        Raises:
            TypeError, ValueError: as :func:`check_map`.
        """
        check_map(type(self).__name__, input, self.spatial_dims)
        padding = self._extra_padding(window or self.kernel_size)
        sides = self._padding_sides()
        if any(sides) and (self.padding_mode != "zeros" or sides[0::2] != sides[1::2]):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            input = F.pad(input, sides, mode)
        else:
            padding = tuple(p + e for p, e in zip(sides[-2::-2], padding, strict=True))
        return input, Geometry(self.stride, padding, self.dilation, self.groups)

    def _padding_sides(self) -> list[int]:
        """The replaced kernel's padding as ``F.pad`` takes it: left, right, top, bottom."""
        sides: list[int] = []
        for axis in reversed(range(self.spatial_dims)):
            if self.padding == "same":
                total = self.dilation[axis] * (self.kernel_size[axis] - 1)
                sides += [total // 2, total - total // 2]
            else:
                sides += [0 if self.padding == "valid" else self.padding[axis]] * 2
        return sides

    def take_over(self, weight: Tensor, load: object) -> None:
        """Set the parameters from a plain kernel and keep the error as ``takeover_error``.

        Args:
            weight: the plain convolution's, of shape ``conv_weight_shape``.
            load: any object that identifies the load or swap; layers that share parameters choose
                them together for all kernels of one load.

        Raises:
            ValueError: the layer cannot compute what a plain convolution does.
        """
        weight = weight.detach().to(next(self.parameters()))
        self._note_takeover(self.load_conv_weight_(weight))

    def _note_takeover(self, error: float) -> None:
        self.takeover_error = error
        self._takeover_reported = False
        bounds.watch(self)

    def _conv_forward(self, *args: Any) -> Tensor:
        raise RuntimeError(
            "efficient_conv_bn_eval reads a plain convolution's weight, and "
            f"{type(self).__name__} has no such weight; disable it, or fold the model first"
        )

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        weight = state_dict.get(prefix + "weight")
        plain = (
            isinstance(weight, Tensor)
            and weight.shape == self.conv_weight_shape
            and not any(prefix + k in state_dict for k in {*self.state_dict()} - {"weight", "bias"})
        )
        if plain:
            try:
                if "weight" not in self._parameters:
                    raise UserValueError(
                        "weight is computed from other parameters here (weight_norm or another "
                        "parametrisation): load plain weights first, then parametrise"
                    )
                # The list is the one object that all layers of a call of load_state_dict share.
                self.take_over(weight, error_msgs)
                self._warn_of_loss()
            except ValueError as error:
                error_msgs.append(f"{prefix}weight: {error}")
            own = {prefix + k: v for k, v in self.state_dict().items() if k != "bias"}
            state_dict = {k: v for k, v in state_dict.items() if k != prefix + "weight"} | own
        elif weight is not None:
            self.takeover_error = None
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )

    def _warn_of_loss(self) -> None:
        # The text is the same for all layers of a class, so that Python shows it once.
        if self.takeover_error is not None and self.takeover_error > LARGE_ERROR:
            warnings.warn(
                f"{type(self).__name__}: a plain kernel was taken over with a relative error above "
                f"{LARGE_ERROR:g}; mmlearnconv.layers.takeover_errors(model) names the layers",
                stacklevel=2,
            )

    def __prepare_scriptable__(self) -> None:
        raise RuntimeError(
            f"torch.jit.script does not support {type(self).__name__}: use torch.export, or fold it"
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.bounded_shapes or self.optim_policy:
            bounds.watch(self)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        ones, zeros = (1,) * self.spatial_dims, (0,) * self.spatial_dims
        usual = dict(stride=ones, padding=zeros, dilation=ones, groups=1, padding_mode="zeros")
        for name, default in usual.items():
            if getattr(self, name) != default:
                parts.append(f"{name}={getattr(self, name)}")
        if self.bias is None:
            parts.append("bias=False")
        return ", ".join(parts)


class LearnableConv2d(LearnableConv):
    """A :class:`LearnableConv` over two dimensions."""


def relative_error(kernel: Tensor, plain: Tensor) -> float:
    """``|kernel - plain| / |plain|``, zero where the plain kernel is."""
    norm = plain.norm()
    return ((kernel - plain).norm() / norm).item() if norm > 0 else 0.0


def _is_initializer(fn: Callable[[nn.Module], None]) -> bool:
    """Whether ``fn`` is what an initialiser of mmengine applies to every module."""
    from_mmengine = getattr(fn, "__module__", None) == "mmengine.model.weight_init"
    return from_mmengine and fn.__qualname__.endswith("Init.__call__.<locals>.init")
