"""The catalogue of operators: one entry per type name of ``conv_cfg``.

Tests, tools, benchmarks, the registry and the tables of the documentation read it.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .layers.arguments import int_tuple
from .layers.base import CONVOLUTIONS, LearnableConv
from .layers.coc import CoCConv2d
from .layers.condconv import CondConv2d
from .layers.dcls import DCLSConv1d, DCLSConv2d, DCLSConv3d
from .layers.dk import DeformableKernelConv2d
from .layers.dke import DKEConv2d
from .layers.drconv import DRConv2d
from .layers.involution import Involution2d
from .layers.options import refuse_unknown


@dataclass(frozen=True)
class Variant:
    """Options that give an operator another form, which the contract tests cover too.

    Args:
        options: of the layer. Default: none.
        takeover_error: largest relative error of the function after taking over a plain kernel,
            with one element per cell, in float64; ``None`` if the form refuses plain weights.
            Default: 1e-10, for rounding.
        any_batch: whether an exported graph serves batches of any size. Default: ``True``.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    takeover_error: float | None = 1e-10
    any_batch: bool = True


@dataclass(frozen=True)
class Comparison:
    """What benchmarks compare with the plain convolution.

    Args:
        label: appended to the operator's name. Default: none.
        options: of the layer. Default: none.
        depthwise: whether the convolution is depthwise, not dense. Default: ``False``.
    """

    label: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    depthwise: bool = False


@dataclass(frozen=True)
class Operator:
    """A type of ``conv_cfg``.

    Args:
        name: the type.
        layer: the class that it builds.
        learns: what it learns, in a few words.
        paper: where it was published, with a link if there is one.
        takeover: how exactly it takes over a trained plain kernel, in a few words.
        folds: ``'yes'``, ``'no'``, or the options with which it is static.
        fixed: options that the type sets.
        pointwise_is_plain: whether the type builds PyTorch's convolution for 1x1 kernels, to which
            the operator does not apply, so that one ``conv_cfg`` can cover a whole network.
        baseline: whether it is what a paper compares its operator with.
        variants: forms with other code paths, by label, each of which the contract tests cover; an
            empty label is the default form. Empty for a type that is another type in other
            dimensions, or whose outputs cannot have an initialiser's scale.
        comparisons: what benchmarks compare.
        alias_of: the type that this one is in other dimensions or along fewer axes. Default: none.
    """

    name: str
    layer: type[LearnableConv]
    learns: str
    paper: str
    takeover: str
    folds: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    pointwise_is_plain: bool = False
    baseline: bool = False
    variants: Mapping[str, Variant] = field(default_factory=lambda: {"": Variant()})
    comparisons: tuple[Comparison, ...] = (Comparison(),)
    alias_of: str | None = None

    @property
    def stem(self) -> str:
        """The name of its files: layer, operation, sources, tests, benchmark, page and configs."""
        return self.layer.__module__.rpartition(".")[2]

    @property
    def page(self) -> str:
        """Its page of the documentation."""
        return f"docs/{self.stem}.md"

    @property
    def takeover_error(self) -> float | None:
        """``takeover_error`` of the first variant.

        ``None`` if it refuses plain weights, or has no variants.
        """
        return next((v.takeover_error for v in self.variants.values()), None)

    @property
    def is_static(self) -> bool:
        """Whether its default form has one kernel for all inputs."""
        return self.folds == "yes"

    def build(self, *args: Any, **options: Any) -> nn.Module:
        """What ``conv_cfg`` builds, from the arguments of ``nn.Conv2d`` and the layer's options."""
        return builder(self)(*args, **options)


def builder(operator: Operator) -> Callable[..., nn.Module]:
    """The function or class behind :meth:`Operator.build`."""
    layer = operator.layer
    if not operator.fixed and not operator.pointwise_is_plain:
        return layer
    parameters = inspect.signature(layer).parameters
    own = {p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY}

    def build(
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        *args: Any,
        **kwargs: Any,
    ) -> nn.Module:
        size = int_tuple("kernel_size", kernel_size, layer.spatial_dims, 1)
        if operator.pointwise_is_plain and max(size) == 1:
            refuse_unknown(layer.__name__, kwargs, parameters)
            kwargs = {k: v for k, v in kwargs.items() if k not in own}
            plain = CONVOLUTIONS[layer.spatial_dims]
            return plain(in_channels, out_channels, kernel_size, *args, **kwargs)
        return layer(in_channels, out_channels, kernel_size, *args, **operator.fixed | kwargs)

    build.__doc__ = f"``{layer.__name__}``, or PyTorch's convolution for kernel size 1."
    return build


_DCLS = dict(
    learns="where a kernel's elements lie in a larger window",
    paper="[ICLR 2023](https://arxiv.org/abs/2112.03740)",
    takeover="exact with one element per cell; else only the largest cells",
    folds="yes",
    pointwise_is_plain=True,
)
_COC = dict(
    paper="CVPR 2022",
    folds="yes",
    pointwise_is_plain=True,
)
_GAUSS_ERROR = 1e-3

CATALOG = (
    Operator(
        name="DCLS",
        layer=DCLSConv2d,
        variants={
            "": Variant(),
            "gauss": Variant(dict(interpolation="gauss"), takeover_error=5e-3),
            "triangle": Variant(dict(interpolation="triangle")),
        },
        comparisons=(Comparison(depthwise=True), Comparison()),
        **_DCLS,
    ),
    Operator(
        name="DK",
        layer=DeformableKernelConv2d,
        learns="to resample its kernel, per image or per location",
        paper="[ICLR 2020](https://arxiv.org/abs/1910.02940)",
        takeover="exact",
        folds="no",
        variants={
            "local": Variant(dict(mode="local")),
            "global": Variant(dict(mode="global"), any_batch=False),
            "data": Variant(dict(mode="global", data_offset=True)),
            "experts": Variant(dict(mode="local", num_experts=3), any_batch=False),
        },
        comparisons=(
            Comparison("local", dict(mode="local"), depthwise=True),
            Comparison("local", dict(mode="local")),
            Comparison("global", dict(mode="global")),
        ),
    ),
    Operator(
        name="DKE",
        layer=DKEConv2d,
        learns="where the taps of each input channel lie, and scores",
        paper="ICCV 2019",
        takeover="approximate: relative error below 1e-3",
        folds="`attention=False`",
        variants={
            "": Variant(takeover_error=_GAUSS_ERROR),
            "static": Variant(dict(attention=False), takeover_error=_GAUSS_ERROR),
        },
    ),
    Operator(
        name="CoC",
        layer=CoCConv2d,
        learns="kernels that are convolved with their neighbours",
        takeover="exact",
        variants={
            "": Variant(),
            "standardize": Variant(dict(normalize="standardize", super_layers=2)),
            "no-skip": Variant(dict(association=3, skip=False, dilated=False)),
        },
        **_COC,
    ),
    Operator(
        name="DRConv",
        layer=DRConv2d,
        learns="which generated filter each location gets",
        paper="[CVPR 2021](https://arxiv.org/abs/2003.12243)",
        takeover="exact",
        folds="no",
        variants={
            "": Variant(dict(regions=3)),
            "general": Variant(dict(regions=3, hidden_channels=6)),
        },
        comparisons=(Comparison(), Comparison("no base", dict(base_weight=False))),
    ),
    Operator(
        name="Involution",
        layer=Involution2d,
        learns="a kernel per location, shared by channels",
        paper="[CVPR 2021](https://arxiv.org/abs/2103.06255)",
        takeover="refused: its kernels are shared by channels",
        folds="no",
        pointwise_is_plain=True,
        variants={"": Variant(dict(group_channels=2), takeover_error=None)},
    ),
    Operator(
        name="ACU",
        layer=DKEConv2d,
        learns="where taps lie, shared by all channels: DKE's baseline",
        paper="[CVPR 2017](https://arxiv.org/abs/1703.09076)",
        takeover="exact",
        folds="yes",
        pointwise_is_plain=True,
        baseline=True,
        fixed=dict(
            interpolation="bilinear",
            shared_positions=True,
            attention=False,
            position_init="grid",
        ),
    ),
    Operator(
        name="CondConv",
        layer=CondConv2d,
        learns="a mixture of expert kernels per image: a baseline of several papers",
        paper="[NeurIPS 2019](https://arxiv.org/abs/1904.04971)",
        takeover="exact",
        folds="no",
        baseline=True,
        variants={"": Variant(dict(num_experts=3), any_batch=False)},
    ),
    Operator(
        name="ConvStnd",
        layer=CoCConv2d,
        learns="standardised kernels: CoC's baseline",
        takeover="exact",
        baseline=True,
        fixed=dict(association=1, normalize="standardize"),
        **_COC,
    ),
    Operator(
        name="ConvOrth",
        layer=CoCConv2d,
        learns="orthonormal kernels: CoC's baseline",
        takeover="refused: no plain kernel is orthonormal",
        baseline=True,
        fixed=dict(association=1, normalize="orthogonalize"),
        variants={},
        **_COC,
    ),
    *(
        Operator(name=name, layer=layer, fixed=fixed, alias_of="DCLS", variants={}, **_DCLS)
        for name, layer, fixed in (
            ("DCLS1d", DCLSConv1d, {}),
            ("DCLS2_1d", DCLSConv2d, dict(learned_axes=(1,))),
            ("DCLS3d", DCLSConv3d, {}),
            ("DCLS3_1d", DCLSConv3d, dict(learned_axes=(2,))),
            ("DCLS3_2d", DCLSConv3d, dict(learned_axes=(1, 2))),
        )
    ),
)


def operator_of(name: str) -> Operator:
    """The operator of a type name.

    Raises:
        KeyError: there is no operator of this name.
    """
    operator = find_operator(name)
    if operator is None:
        known = ", ".join(operator.name for operator in CATALOG)
        raise KeyError(f"{name!r} is not an operator; known are {known}")
    return operator


def find_operator(kind: Any) -> Operator | None:
    """The operator of a type in a config: its name, its layer's class or that class's name."""
    known = ((o, (o.name, o.layer, o.layer.__name__)) for o in CATALOG)
    return next((operator for operator, names in known if kind in names), None)


def operator_names(
    *, static: bool | None = None, baselines: bool = True, takes_over: bool = True
) -> list[str]:
    """Types of operators over two dimensions, in the catalogue's order.

    Args:
        static: those whose default form is static, or is not. Default: both.
        baselines: whether to name the papers' baselines. Default: ``True``.
        takes_over: whether to leave out those that refuse plain weights. Default: ``True``.
    """
    return [
        operator.name
        for operator in CATALOG
        if operator.alias_of is None
        and static in (None, operator.is_static)
        and (baselines or not operator.baseline)
        and (operator.takeover_error is not None or not takes_over)
    ]


def markdown_table(baselines: bool = False) -> str:
    """The operators as a table for the documentation: type, what it learns, paper and so on."""
    rows = [
        ["type", "what it learns", "paper", "from plain weights", "folds"],
        ["---"] * 5,
        *(
            [f"[`{o.name}`]({o.page})", o.learns, o.paper, o.takeover, o.folds]
            for o in map(operator_of, operator_names(takes_over=False))
            if o.baseline == baselines
        ),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
