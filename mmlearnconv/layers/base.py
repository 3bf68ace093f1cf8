"""The contract that every convolution of this package keeps."""

import inspect
import logging
import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import weight_init
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..ops import depthwise_conv2d
from ..ops.layout import lay_out
from ..ops.reference import conv_output_size

_PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class LearnableConv(nn.Module):
    """A convolution that stands where PyTorch's, with the same arguments, could.

    Written for ``spatial_dims`` dimensions; the docstrings speak of two.

    Subclasses add their parameters (the one in the convolution's place is called ``weight``, the
    bias ``bias``) and ``forward``. In return they are found by ``mmcv.cnn.ConvModule``, take over a
    plain convolution's checkpoint and initialisation through :meth:`set_from_plain`, and keep their
    parameters in bounds through :meth:`clamp_parameters`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: size of the replaced kernel; it alone decides the output's shape.
        stride: as ``nn.Conv2d``. Default: 1.
        padding: as ``nn.Conv2d``, also ``'same'`` and ``'valid'``. Default: 0.
        dilation: as ``nn.Conv2d``. Default: 1.
        groups: as ``nn.Conv2d``. Default: 1.
        bias: as ``nn.Conv2d``. Default: ``True``.
        padding_mode: as ``nn.Conv2d``; cells beyond the replaced kernel's own padding are zero in
            every mode. Default: ``'zeros'``.

    Raises:
        TypeError: a size that is no integer or pair of integers.
        ValueError: an argument outside what ``nn.Conv2d`` allows.
    """

    spatial_dims = 2
    transposed = False

    #: Whether the kernel is the same for every input, so that :meth:`to_dense` can give it.
    is_static = True

    #: How the parameters want to be optimised: name -> ``lr_mult`` and ``decay_mult``.
    optim_policy: dict[str, dict[str, float]] = {}

    #: Whether an optimizer's maker has read ``optim_policy``, or its neglect was logged.
    policy_settled = False

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
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"padding: {padding!r}; as a word it is 'same' or 'valid'")
            if padding == "same" and max(self.stride) > 1:
                raise ValueError(f"padding: 'same' needs stride 1, not {self.stride}")
            self.padding = padding
        else:
            self.padding = int_tuple("padding", padding, self.spatial_dims, 0)
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) % groups:
                raise ValueError(f"groups: {groups} does not divide {name}={getattr(self, name)}")
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode: {padding_mode!r}; allowed are {PADDING_MODES}")
        self.padding_mode = padding_mode
        self.register_parameter("bias", nn.Parameter(torch.empty(out_channels)) if bias else None)
        _live_layers.add(self)

    @property
    def plain_shape(self) -> tuple[int, ...]:
        """Shape of the replaced convolution's weight."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    # What a subclass says about itself.

    def set_from_plain(self, weight: Tensor) -> list[tuple["LearnableConv", float]]:
        """Compute what a plain convolution with ``weight`` computes, as nearly as possible.

        Args:
            weight: ``plain_shape``.

        Returns:
            list: the layers that this changed (more than one where parameters are shared) and, for
            each, the relative error of its function, measured on the kernel.

        Raises:
            ValueError: the layer cannot compute what a plain convolution does.
        """
        raise NotImplementedError

    def init_from_plain(self, weight: Tensor) -> None:
        """Start training from a freshly drawn plain kernel; by default from its function.

        The output has the scale that the plain convolution's has; positions, widths and all that
        an option chose stay. Called by an ``init_cfg``.

        Args:
            weight: ``plain_shape``.
        """
        self.set_from_plain(weight)

    def swap_options(self) -> dict[str, Any]:
        """Options that a swap gives the layer, unless told, to compute what a plain one does."""
        return {}

    def dense_kernel(self) -> Tensor:
        """The kernel that is convolved with the input; only for static layers."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        raise NotImplementedError

    def output_size(self, input_size: Sequence[int]) -> tuple[int, ...]:
        """Size of the map that ``nn.Conv2d``, with the layer's arguments, makes of another."""
        sides, zeros = self._padding_sides(), (0,) * self.spatial_dims
        padded = [
            size + before + after
            for size, before, after in zip(input_size, sides[-2::-2], sides[::-2], strict=True)
        ]
        return conv_output_size(padded, self.kernel_size, self.stride, zeros, self.dilation)

    def multiply_adds(self, output_size: Sequence[int]) -> dict[str, int]:
        """Multiply-adds for one image, as the layer's paper counts them.

        Args:
            output_size: of the output, ``(H', W')``.

        Returns:
            dict: by part; ``'convolution'`` is what a plain convolution has too, with the kernel
            that is used. Work on the weights alone, which folding does once, is not in it.
        """
        return dict(convolution=prod(output_size) * self.out_channels * self.taps_per_output)

    @property
    def taps_per_output(self) -> int:
        """Numbers that one output sums: input channels of a group times taps of the kernel used."""
        return self.in_channels // self.groups * prod(self.kernel_size)

    def clamp_parameters(self) -> None:
        """Bring positions back into their bounds; called after every optimizer step."""

    # What the contract gives.

    def init_weights(self) -> None:
        """Do nothing: the constructor drew the parameters, and an ``init_cfg`` comes by ``apply``.

        Present because ``mmcv.cnn.ConvModule`` re-initialises convolutions that lack it.
        """

    def apply(self, fn: Callable[[nn.Module], None]) -> "LearnableConv":
        """``nn.Module.apply``, where an ``init_cfg`` for plain convolutions initialises this layer.

        mmengine's initialisers pick modules by class name and fill ``weight`` in place. So they,
        and no other functions, are shown a plain convolution of the replaced geometry first; if
        they fill it, the layer starts from what they drew. Every other function sees the layer.
        """
        if not _is_initializer(fn) or self._device.type == "meta":
            return super().apply(fn)
        twin = self._plain_twin(drawn=False)
        fn(twin)
        filled = [name for name, p in twin.named_parameters() if not p.isnan().all()]
        if not filled:
            return super().apply(fn)
        if "weight" in filled:
            self.init_from_plain(twin.weight.data)
        if "bias" in filled:
            self.bias.data.copy_(twin.bias.data)
        return self

    def to_dense(self) -> nn.Conv2d:
        """The equal ``nn.Conv2d``, with weights of its own.

        Raises:
            ValueError: no ``nn.Conv2d`` is equal: the kernel depends on the input, or reaches
                beyond a padding that is not of zeros.
        """
        if not self.is_static:
            raise ValueError(f"{type(self).__name__}: the kernel depends on the input")
        kernel = self.dense_kernel().detach()
        extra = self._extra_padding(kernel.shape[2:])
        if self.padding_mode != "zeros" and any(extra):
            raise ValueError(
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
            conv = _PLAIN[self.spatial_dims](
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

    def _plain_twin(self, drawn: bool = True) -> nn.Conv2d:
        """A plain convolution of the replaced geometry; NaN and no random numbers if not drawn."""
        conv = nn.utils.skip_init(
            _PLAIN[self.spatial_dims],
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
        """Zeros on each side that make a window of ``size`` give the replaced kernel's shape."""
        return tuple(
            d * (s - k) // 2 for d, s, k in zip(self.dilation, size, self.kernel_size, strict=True)
        )

    def _convolve(self, input: Tensor, kernel: Tensor) -> Tensor:
        """The layer's convolution with a kernel of any size of ``kernel_size``'s parity."""
        input, padding = self._padded(input, self._extra_padding(kernel.shape[2:]))
        if self.spatial_dims == 2 and self.groups == self.in_channels == self.out_channels:
            return depthwise_conv2d(input, kernel, self.bias, self.stride, padding, self.dilation)
        convolution = _CONVOLUTIONS[self.spatial_dims]
        return convolution(
            input, kernel, self.bias, self.stride, padding, self.dilation, self.groups
        )

    def _padded(
        self, input: Tensor, extra: tuple[int, ...] | None = None
    ) -> tuple[Tensor, tuple[int, ...]]:
        """The input, padded as far as zeros cannot do it, and the padding with zeros left to do."""
        report_plain_loads()
        if input.ndim != self.spatial_dims + 2:
            raise ValueError(
                f"{type(self).__name__}: the input has shape {tuple(input.shape)}; it must have "
                f"{self.spatial_dims + 2} dimensions, batch, channels and {self.spatial_dims} more"
            )
        extra = extra or (0,) * self.spatial_dims
        sides = self._padding_sides()
        if any(sides) and (self.padding_mode != "zeros" or sides[0::2] != sides[1::2]):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            return F.pad(input, sides, mode), extra
        return input, tuple(p + e for p, e in zip(sides[-2::-2], extra, strict=True))

    def _finish(self, output: Tensor, input: Tensor) -> Tensor:
        """The output with the bias, laid out as :meth:`_laid_out` says."""
        if self.bias is not None:
            output = output + self.bias.to(output.dtype)[:, None, None]
        return self._laid_out(output, input)

    @staticmethod
    def _laid_out(output: Tensor, input: Tensor) -> Tensor:
        """The output in the memory format of the input: what ``nn.Conv2d`` gives.

        Not only for speed: mmcv's operations, RoIAlign for one, read a map's memory as NCHW.
        """
        return lay_out(output, input)

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

    def _conv_forward(self, *args: Any) -> Tensor:
        """Where mmcv's and mmengine's ``efficient_conv_bn_eval`` would multiply ``weight``."""
        raise RuntimeError(
            "efficient_conv_bn_eval reads a plain convolution's weight, which "
            f"{type(self).__name__} has not: leave it off where this layer is, or fold the model"
        )

    def _own_keys(self) -> set[str]:
        """Names that this layer's state has and a plain convolution's has not."""
        return set(self.state_dict()) - {"weight", "bias"}

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
            and weight.shape == self.plain_shape
            and not any(prefix + key in state_dict for key in self._own_keys())
        )
        if plain:
            try:
                if "weight" not in self._parameters:
                    raise ValueError(
                        "weight is computed from other parameters here (weight_norm or another "
                        "parametrisation): load plain weights first, then parametrise"
                    )
                _plain_load(error_msgs).add(self, weight)
            except ValueError as error:
                error_msgs.append(f"{prefix}weight: {error}")
            own = {prefix + k: v for k, v in self.state_dict().items() if k != "bias"}
            state_dict = {k: v for k, v in state_dict.items() if k != prefix + "weight"} | own
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _live_layers.add(self)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        ones, zeros = (1,) * self.spatial_dims, (0,) * self.spatial_dims
        defaults = dict(stride=ones, padding=zeros, dilation=ones, groups=1, padding_mode="zeros")
        for name, default in defaults.items():
            if getattr(self, name) != default:
                parts.append(f"{name}={getattr(self, name)}")
        if self.bias is None:
            parts.append("bias=False")
        return ", ".join(parts)


class LearnableConv2d(LearnableConv):
    """A :class:`LearnableConv` over two dimensions."""


# Bounds hold after every step of every optimizer, whatever loop drives it, so that no config and no
# training script has to remember them.
_live_layers: "weakref.WeakSet[LearnableConv]" = weakref.WeakSet()


def _clamp_stepped_layers(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
    if not _live_layers:
        return
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    neglected: dict[str, dict[str, float]] = {}
    for layer in list(_live_layers):
        trained = {n for n, p in layer.named_parameters(recurse=False) if id(p) in stepped}
        if not trained:
            continue
        layer.clamp_parameters()
        if not layer.policy_settled:
            layer.policy_settled = True
            for name in layer.optim_policy.keys() & trained:
                neglected[f"{type(layer).__name__}.{name}"] = layer.optim_policy[name]
    if neglected:
        _log_neglected(neglected)


def _log_neglected(policies: dict[str, dict[str, float]]) -> None:
    """Say once which parameters train as all others do although their paper says otherwise."""
    wishes = ", ".join(
        f"{name} ({' '.join(f'{k}={v:g}' for k, v in policy.items())})"
        for name, policy in sorted(policies.items())
    )
    print_log(
        f"trained with the optimizer's own learning rate and weight decay: {wishes}. The papers' "
        "stand in brackets; optim_wrapper = "
        "dict(constructor='LearnableConvOptimWrapperConstructor') applies them",
        logger="current",
        level=logging.INFO,
    )


register_optimizer_step_post_hook(_clamp_stepped_layers)


@dataclass
class _PlainLoad:
    """What one call of ``load_state_dict`` made of plain weights."""

    #: The call's list of errors: the one object that all its layers see and no other call does.
    token: list[str]
    #: Weights of the layers that were set, for parameters that several layers share.
    plain_weights: dict[LearnableConv, Tensor] = field(default_factory=dict)
    errors: dict[LearnableConv, float] = field(default_factory=dict)

    def add(self, layer: LearnableConv, weight: Tensor) -> None:
        self.plain_weights[layer] = weight.detach().to(next(layer.parameters()))
        self.errors.update(layer.set_from_plain(self.plain_weights[layer]))


_current_load: _PlainLoad | None = None


def _plain_load(token: list[str]) -> _PlainLoad:
    global _current_load
    if _current_load is None or _current_load.token is not token:
        report_plain_loads()
        _current_load = _PlainLoad(token)
    return _current_load


def plain_weight_of(layer: LearnableConv) -> Tensor | None:
    """The plain weight that the load in progress gave to ``layer``, if any."""
    return None if _current_load is None else _current_load.plain_weights.get(layer)


def begin_plain_load() -> _PlainLoad:
    """A load of plain weights that its caller, not ``load_state_dict``, drives."""
    return _plain_load([])


def report_plain_loads() -> None:
    """Log, in one line, how many layers the last load set from plain weights, and how well.

    PyTorch tells a layer when it is loaded but not when the whole model is; so this runs at the
    next load or the first forward pass, and wherever a caller knows that the load is over.
    """
    global _current_load
    if torch.compiler.is_compiling() or _current_load is None:
        return
    errors = _current_load.errors
    _current_load = None
    if not errors:
        return
    kinds = ", ".join(sorted({type(layer).__name__ for layer in errors}))
    print_log(
        f"{len(errors)} {kinds} layers set from plain convolution weights; "
        f"largest relative error of a kernel {max(errors.values()):.1e}",
        logger="current",
        level=logging.INFO,
    )


def int_tuple(name: str, value: int | Iterable[int], length: int, minimum: int) -> tuple[int, ...]:
    """``value`` for each of ``length`` axes, or an error that names the argument."""
    values = tuple(value) if isinstance(value, Iterable) else (value,) * length
    if isinstance(value, str) or len(values) != length or not all(map(_is_integer, values)):
        raise TypeError(f"{name}: {value!r} is neither an integer nor {length} integers")
    if min(values) < minimum:
        raise ValueError(f"{name}: {value!r}; must be at least {minimum}")
    return tuple(int(v) for v in values)


def positive_int(name: str, value: int) -> int:
    """``value``, or an error that names the argument."""
    if not _is_integer(value):
        raise TypeError(f"{name}: {value!r} is not an integer")
    if value < 1:
        raise ValueError(f"{name}: {value!r}; must be at least 1")
    return int(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_initializer(fn: Callable[[nn.Module], None]) -> bool:
    """Whether ``fn`` is what an initialiser of mmengine applies to every module."""
    own = getattr(fn, "__module__", None) == weight_init.__name__
    return own and fn.__qualname__.endswith("Init.__call__.<locals>.init")


def relative_error(kernel: Tensor, plain: Tensor) -> float:
    """``|kernel - plain| / |plain|``, zero where the plain kernel is."""
    norm = plain.norm()
    return ((kernel - plain).norm() / norm).item() if norm > 0 else 0.0


def plain_if_pointwise(layer: type[LearnableConv], **options: Any) -> Callable[..., nn.Module]:
    """Builder of ``layer`` with options set, that gives an ``nn.Conv2d`` for kernel size 1.

    So one ``conv_cfg`` can cover a network whose 1x1 convolutions have no room for the layer.
    """
    signature = inspect.signature(layer)
    own = {p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}

    def build(
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *args: Any,
        **kwargs: Any,
    ) -> nn.Module:
        if max(int_tuple("kernel_size", kernel_size, layer.spatial_dims, 1)) == 1:
            kwargs = {k: v for k, v in kwargs.items() if k not in own}
            return _PLAIN[layer.spatial_dims](
                in_channels, out_channels, kernel_size, *args, **kwargs
            )
        return layer(in_channels, out_channels, kernel_size, *args, **options | kwargs)

    build.__doc__ = f"``{layer.__name__}``, or ``nn.Conv2d`` for kernel size 1."
    return build
