"""Plain convolutions of a whole model replaced by learnable ones that compute the same."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from fnmatch import translate
from typing import Any

from mmcv.cnn import build_conv_layer
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from mmcv.cnn.bricks.wrappers import Conv2d as MMCVConv2d
from mmcv.cnn.bricks.wrappers import Conv3d as MMCVConv3d
from mmengine.logging import print_log
from torch import nn

from ..errors import UserTypeError, UserValueError
from ..layers import DCLSConv, LearnableConv
from ..layers.arguments import unknown
from ..layers.takeover import takeover_report
from ..registry import MODELS
from .fold import fold_convs, replace_modules
from .window import another_window, extents

# Subclasses of these compute more than a convolution, as weight standardisation.
_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, MMCVConv2d, MMCVConv3d)
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

    def names(self, name: str) -> bool:
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
        with takeover_report() as report:
            report.load(layer, conv.weight)
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
    _swap(model, swaps, same_function=True)
    return model


@MODELS.register_module()
def SwapConv(  # noqa: N802
    target: str | type,
    swaps: Sequence[dict[str, Any]] = (),
    fold: bool | str = False,
    **model: Any,
) -> nn.Module:
    """Build a model and replace some of its convolutions; a ``type`` for configs.

    .. code-block:: python

        _base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
        custom_imports = dict(imports=['mmlearnconv'])
        model = dict(
            type='SwapConv',
            target='MaskRCNN',
            swaps=[dict(pattern='backbone.layer[34].*.conv2', conv=dict(type='DKE'))])

    Args:
        target: the model's type, which is the ``type`` in the inherited config.
        swaps: one dict of :class:`SwapRule` arguments per rule; plain checkpoints still load. A
            rule may also put in mmcv's ``dict(type='DCN')`` for comparison, or a plain convolution
            of another window, ``dict(type='Conv2d', kernel_size=5)`` or ``dilation=2``, padded so
            that maps keep their sizes. Default: none.
        fold: whether to fold the model afterwards, into plain convolutions of the folded kernels'
            sizes, for checkpoints of ``tools/fold.py``; or a ``taps`` argument for
            :func:`fold_convs`. Default: ``False``.
        **model: the model's own arguments.

    Returns:
        nn.Module: the model, of type ``target``; its modules have the names of the plain model's.

    Raises:
        TypeError, ValueError: as :func:`swap_convs`.
    """
    built = MODELS.build(dict(type=target, **model))
    _swap(built, swaps, same_function=False)
    return fold_convs(built, fold if isinstance(fold, str) else None) if fold else built


def _swap(model: nn.Module, swaps: Sequence[Any], same_function: bool) -> None:
    """Swap; unless ``same_function``, the layers are only initialised to the same scale."""
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
    with takeover_report() as report:
        for conv, (name, rule, layer) in plan.items():
            try:
                if same_function:
                    report.load(layer, conv.weight)
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
        if same_function:
            errors = [f"{report.errors[layer]:.1e}" for _, _, layer in plan.values()]
            rows = [[*row, e] for row, e in zip(rows, ["relative error", *errors], strict=True)]
        print_log(f"{len(plan)} convolutions swapped\n{_table(rows)}", logger="current")


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
        if rule.names(name) and module not in named:
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


def _refuse_more_than_plain(conv: nn.Module) -> None:
    if type(conv) not in (*_PLAIN, Conv2dAdaptivePadding):
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
    if type(conv) is not Conv2dAdaptivePadding:
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
    layer = build_conv_layer(cfg, **arguments)
    if window and not (others and type(layer) in _PLAIN):
        raise UserValueError(f"{window}: a swap keeps both, but of type='Conv2d' in SwapConv")
    if isinstance(layer, LearnableConv):
        options = layer.exact_takeover_options()
        if not options.keys() <= cfg.keys():
            layer = build_conv_layer(options | cfg, **arguments)
    elif type(layer) not in _PLAIN and not (others and layer.weight.shape == conv.weight.shape):
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
    return type(layer) in _PLAIN and window == (layer.kernel_size, layer.dilation)


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
