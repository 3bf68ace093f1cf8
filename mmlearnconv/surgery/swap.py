"""Plain convolutions of a whole model replaced by learnable ones that compute the same."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from fnmatch import translate
from typing import Any

from torch import nn

from ..errors import UserTypeError, UserValueError
from ..layers import DCLSConv, LearnableConv
from ..layers.arguments import unknown
from ..log import logger
from .build import build_conv
from .fold import replace_modules
from .window import another_window, extents

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class SwapRule:
    """Which convolutions of a model to replace, and by what.

    Args:
        conv: the learnable convolution, as a ``conv_cfg``: ``dict(type='DKE', ...)``.
        pattern: one or more shell-style patterns for the convolutions' full names; ``*`` also
            matches dots. Either this or ``regex`` must be given.
        regex: regular expression that must match the whole of a full name.
        exclude: one or more shell-style patterns for names to leave alone. Default: none.
        kernel_size: replace only kernels of this size, one integer or one per axis. Default: any.
        stride: replace only convolutions of this stride, one integer or one per axis. Default: any.
        depthwise: ``True`` for depthwise convolutions only, ``False`` for all others. Default:
            both.
        last: replace only this many of the chosen convolutions, the last ones. Default: all.
        share_positions: whether DCLS layers of equal shape under this rule share their positions.
            Default: ``False``.

    Raises:
        TypeError: ``conv`` is not a ``conv_cfg`` with a ``type``.
        ValueError: neither or both of ``pattern`` and ``regex``, or ``last`` is not a positive
            integer.
    """

    conv: dict[str, Any]
    pattern: str | Sequence[str] | None = None
    regex: str | None = None
    exclude: str | Sequence[str] = ()
    kernel_size: int | Sequence[int] | None = None
    stride: int | Sequence[int] | None = None
    depthwise: bool | None = None
    last: int | None = None
    share_positions: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.conv, dict) or "type" not in self.conv:
            raise UserTypeError(f"conv: {self.conv!r}; must be a conv_cfg like dict(type='DCLS')")
        if (self.pattern is None) == (self.regex is None):
            raise UserValueError("give a pattern or a regex, exactly one of them")
        if self.last is not None and (not isinstance(self.last, int) or self.last < 1):
            raise UserValueError(f"last: {self.last!r}; must be a positive integer")

    @property
    def operator(self) -> str:
        """The convolution's name."""
        kind = self.conv["type"]
        return kind if isinstance(kind, str) else kind.__name__

    def __str__(self) -> str:
        named = ((f.name, getattr(self, f.name)) for f in fields(self) if f.name != "conv")
        chosen = [f"{name}={value!r}" for name, value in named if value not in (None, (), False)]
        return f"rule {', '.join(chosen)} -> {self.operator}"

    def matches(self, name: str) -> bool:
        """Whether the rule matches a module of this name."""
        if self.regex is not None:
            named = re.fullmatch(self.regex, name) is not None
        else:
            named = _matches(name, self.pattern)
        return named and not _matches(name, self.exclude)

    def fits(self, conv: nn.Module) -> bool:
        """Whether a convolution has the kernel size, stride and groups that the rule selects."""
        depthwise = conv.groups > 1 and conv.groups == conv.in_channels == conv.out_channels
        return (
            _equal(conv.kernel_size, self.kernel_size)
            and _equal(conv.stride, self.stride)
            and self.depthwise in (None, depthwise)
        )


def _matches(name: str, patterns: str | Iterable[str]) -> bool:
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return any(re.match(translate(pattern), name) for pattern in patterns)


def _equal(value: tuple[int, ...], wanted: int | Sequence[int] | None) -> bool:
    if isinstance(wanted, int):
        wanted = (wanted,) * len(value)
    return wanted is None or tuple(value) == tuple(wanted)


def from_conv(conv: nn.Module, cfg: dict[str, Any]) -> nn.Module:
    """A learnable convolution, with its own parameters, that computes what a plain one does.

    Args:
        conv: an ``nn.Conv1d``, ``nn.Conv2d`` or ``nn.Conv3d``; or mmcv's ``Conv2dAdaptivePadding``
            where its padding is fixed, as at stride 1.
        cfg: the learnable convolution, as a ``conv_cfg``. Options that it does not set are chosen
            so that the layer computes the same: DCLS gets one element per cell.

    Returns:
        nn.Module: the layer, with the device, dtype and training mode of ``conv``; a plain
        convolution if the operator leaves kernels of this size plain.

    Raises:
        TypeError: ``conv`` is not a plain convolution, or has hooks.
        ValueError: the operator cannot compute what ``conv`` does.
    """
    _refuse_more_than_plain(conv)
    layer = _like(conv, cfg)
    if isinstance(layer, LearnableConv):
        layer.take_over(conv.weight, object())
    else:
        layer.weight.data.copy_(conv.weight)
    return layer


def swap_convs(model: nn.Module, swaps: Sequence[dict[str, Any] | SwapRule]) -> nn.Module:
    """Replace convolutions of a model, in place, by learnable ones that compute the same.

    Names of modules stay. Call it before building the optimizer: the parameters are new. Logs a
    table of the convolutions and what replaced them.

    Args:
        model: any model.
        swaps: each a :class:`SwapRule` or a dict of its arguments; the first rule that matches a
            convolution replaces it.

    Returns:
        nn.Module: ``model``.

    Raises:
        TypeError: a rule's argument is unknown or of the wrong type.
        ValueError: a rule matches nothing, or convolutions that its operator cannot replace, which
            are all named; the model is then unchanged.
    """
    replace_convs(model, swaps, same_function=True)
    return model


def replace_convs(model: nn.Module, swaps: Sequence[Any], same_function: bool) -> None:
    """:func:`swap_convs`, or if not ``same_function``, layers that only start at the same scale."""
    plan: dict[nn.Module, tuple[str, SwapRule, nn.Module]] = {}
    for number, swap in enumerate(swaps):
        rule = _rule(number, swap)
        chosen = _choose(model, rule, plan)
        first: dict[Any, DCLSConv] = {}
        refused: dict[str, Exception] = {}
        for name, conv in chosen:
            try:
                layer = _like(conv, rule.conv, others=not same_function)
                if rule.share_positions:
                    _share(layer, first)
            except (TypeError, ValueError, AssertionError) as error:
                refused[name] = error
                continue
            plan[conv] = (name, rule, layer)
        if refused:
            _refuse(rule, refused, dict(chosen))
        if all(_stays_plain(conv, plan[conv][2]) for _, conv in chosen):
            raise UserValueError(
                f"swaps[{number}]: {rule.operator} leaves kernels of size 1 plain, and {rule} "
                f"matches no others: {', '.join(name for name, _ in chosen)}"
            )
    plan = {c: entry for c, entry in plan.items() if not _stays_plain(c, entry[2])}
    swap = object()
    for conv, (name, rule, layer) in plan.items():
        try:
            if same_function:
                layer.take_over(conv.weight, swap)
            elif not isinstance(layer, LearnableConv):
                if layer.weight.shape == conv.weight.shape:
                    layer.weight.data.copy_(conv.weight)
            else:
                layer.init_from_conv_weight_(conv.weight)
        except ValueError as error:
            raise UserValueError(_cannot(rule, name, conv, error)) from error
    replace_modules(model, {conv: layer for conv, (_, _, layer) in plan.items()})
    rows = [["convolution", "plain", "becomes"]]
    rows += [[name, _geometry(conv), rule.operator] for conv, (name, rule, _) in plan.items()]
    title = f"{len(plan)} convolutions swapped"
    if same_function:
        for _, _, layer in plan.values():
            layer._takeover_reported = True  # By this table.
        errors = [layer.takeover_error for _, _, layer in plan.values()]
        title += f"; largest relative error of a kernel {max(errors, default=0.0):.1e}"
        column = ["relative error", *(f"{error:.1e}" for error in errors)]
        rows = [[*row, cell] for row, cell in zip(rows, column, strict=True)]
    logger.info(f"{title}\n{_table(rows)}")


def _rule(number: int, swap: dict[str, Any] | SwapRule) -> SwapRule:
    if isinstance(swap, SwapRule):
        return swap
    known = [field.name for field in fields(SwapRule)]
    for name in swap:
        if name not in known:
            raise UserTypeError(f"swaps[{number}]: {unknown(name, known)}")
    try:
        return SwapRule(**swap)
    except (TypeError, ValueError) as error:
        kind = UserTypeError if isinstance(error, TypeError) else UserValueError
        raise kind(f"swaps[{number}]: {error}") from error


def _choose(
    model: nn.Module, rule: SwapRule, taken: Iterable[nn.Module]
) -> list[tuple[str, nn.Module]]:
    """The convolutions that a rule matches, with names; of several names, the first."""
    named = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if rule.matches(name) and module not in named:
            named[module] = name
    convs = [(n, m) for m, n in named.items() if isinstance(m, _CONVOLUTIONS)]
    left = [(n, m) for n, m in convs if m not in taken]
    chosen = [(n, m) for n, m in left if rule.fits(m)]
    if not chosen:
        if left:
            why = f"of {len(left)} convolutions of such names none has the geometry asked for"
        elif convs:
            why = "earlier rules took all convolutions of such names"
        elif named:
            kinds = sorted({type(m).__name__ for m in named})
            why = f"modules of such names are not plain convolutions: {', '.join(kinds)}"
        else:
            known = [n for n, m in model.named_modules() if isinstance(m, _CONVOLUTIONS)]
            why = f"no module has such a name; the convolutions are {_few(known)}"
        raise UserValueError(f"{rule} matches nothing: {why}")
    return chosen[-rule.last :] if rule.last else chosen


def _few(names: list[str]) -> str:
    return ", ".join([*names[:3], "...", names[-1]]) if len(names) > 4 else ", ".join(names)


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is PyTorch's convolution, or mmcv's, which takes empty batches too.

    Other subclasses compute more than a convolution, as weight standardisation.
    """
    kind = type(module)
    from_mmcv = kind.__module__ == "mmcv.cnn.bricks.wrappers" and kind.__base__ in _CONVOLUTIONS
    return kind in _CONVOLUTIONS or from_mmcv


def _is_adaptive(module: nn.Module) -> bool:
    """Whether a module is mmcv's convolution that pads by the image's size."""
    return type(module).__name__ == "Conv2dAdaptivePadding" and isinstance(module, nn.Conv2d)


def _refuse_more_than_plain(conv: nn.Module) -> None:
    if not _is_plain(conv) and not _is_adaptive(conv):
        raise UserTypeError(f"{type(conv).__name__}: only unmodified nn.Conv* can be swapped")
    if conv._forward_pre_hooks or conv._forward_hooks:
        raise UserTypeError("it has hooks that change what it computes; remove them first")


def _refuse(rule: SwapRule, refused: dict[str, Exception], chosen: dict[str, nn.Module]) -> None:
    """Say which convolutions cannot be replaced, and what leaves them alone."""
    name, error = next(iter(refused.items()))
    message = _cannot(rule, name, chosen[name], error)
    if len(chosen) > 1:
        excluded = [rule.exclude] if isinstance(rule.exclude, str) else rule.exclude
        message += f"; {len(refused)} of {len(chosen)} convolutions of this rule are refused"
        if len(refused) < len(chosen):
            message += f", which exclude={[*excluded, *refused]} leaves alone"
    # AssertionError is mmcv's way to refuse an argument.
    kind = TypeError if isinstance(error, TypeError) else ValueError
    raise kind(message) from error


def _padding_of(conv: nn.Module) -> Any:
    """A convolution's padding; mmcv's adaptive one is fixed where the stride is 1."""
    if not _is_adaptive(conv):
        return conv.padding
    reach = extents(conv.kernel_size, conv.dilation)
    fixed = all(r == 0 or (s == 1 and r % 2 == 0) for r, s in zip(reach, conv.stride, strict=True))
    if not fixed:
        raise UserTypeError("Conv2dAdaptivePadding: its padding depends on the image's size")
    return tuple(r // 2 for r in reach)


def _like(conv: nn.Module, cfg: dict[str, Any], others: bool = False) -> nn.Module:
    """The layer with a plain convolution's geometry and bias, its kernel not yet set.

    With ``others``, layers that are not learnable convolutions but have a weight of the plain
    kernel's shape, such as mmcv's deformable ones, are allowed too.
    """
    _refuse_more_than_plain(conv)
    arguments = dict(
        in_channels=conv.in_channels,
        out_channels=conv.out_channels,
        kernel_size=conv.kernel_size,
        stride=conv.stride,
        padding=_padding_of(conv),
        dilation=conv.dilation,
        groups=conv.groups,
        bias=conv.bias is not None,
    )
    if conv.padding_mode != "zeros":
        arguments["padding_mode"] = conv.padding_mode
    window = {key: cfg[key] for key in ("kernel_size", "dilation") if key in cfg}
    if window:
        cfg = {key: value for key, value in cfg.items() if key not in window}
        arguments |= another_window(window, **arguments)
    layer = build_conv(cfg, **arguments)
    if window and not (others and _is_plain(layer)):
        raise UserValueError(f"{window}: a swap keeps both, but of type='Conv2d' in SwapConv")
    if isinstance(layer, LearnableConv):
        options = layer.exact_takeover_options()
        if not options.keys() <= cfg.keys():
            layer = build_conv(options | cfg, **arguments)
    elif not _is_plain(layer) and not (others and layer.weight.shape == conv.weight.shape):
        raise UserValueError(
            f"{cfg['type']!r} builds a {type(layer).__name__}, not a learnable one"
        )
    layer.to(device=conv.weight.device, dtype=conv.weight.dtype).train(conv.training)
    layer.requires_grad_(conv.weight.requires_grad)
    if conv.bias is not None:
        layer.bias.data.copy_(conv.bias)
        layer.bias.requires_grad_(conv.bias.requires_grad)
    return layer


def _stays_plain(conv: nn.Module, layer: nn.Module) -> bool:
    """Whether the layer is a plain convolution of the same window."""
    window = conv.kernel_size, conv.dilation
    return _is_plain(layer) and window == (layer.kernel_size, layer.dilation)


def _share(layer: nn.Module, first: dict[Any, DCLSConv]) -> None:
    if isinstance(layer, LearnableConv) and not isinstance(layer, DCLSConv):
        raise UserValueError("share_positions: only DCLS layers share positions")
    if isinstance(layer, DCLSConv):
        shape = (layer.positions.shape, layer.dilated_kernel_size)
        layer.share_positions(first.setdefault(shape, layer))


def _geometry(conv: nn.Module) -> str:
    size, stride, dilation = (
        "x".join(map(str, value)) for value in (conv.kernel_size, conv.stride, conv.dilation)
    )
    parts = [f"{conv.in_channels} -> {conv.out_channels}, {size}"]
    parts += [f"stride {stride}"] * (max(conv.stride) > 1)
    parts += [f"dilation {dilation}"] * (max(conv.dilation) > 1)
    parts += [f"groups {conv.groups}"] * (conv.groups > 1)
    return ", ".join(parts)


def _cannot(rule: SwapRule, name: str, conv: nn.Module, error: Exception) -> str:
    size = f" ({_geometry(conv)})" if isinstance(conv, _CONVOLUTIONS) else ""
    return f"{rule.operator} cannot replace {name}{size}: {error}"


def _table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (zip(row, widths, strict=True) for row in rows)
    return "\n".join("  ".join(f"{c:<{w}}" for c, w in line).rstrip() for line in lines)
