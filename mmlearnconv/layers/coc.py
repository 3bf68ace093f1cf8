"""CoC: convolution of convolution, kernels that collaborate on a sheet; and its baselines.

Zhao, Li, Wu: Convolution of Convolution: Let Kernels Spatially Collaborate. CVPR 2022.
"""

import torch
from torch import Tensor, nn

from ..errors import UserValueError
from ..ops.coc import (
    STANDARDIZE_EPS,
    associate_kernels,
    normalize_filters,
    orthogonalize,
    standardize,
)
from .arguments import one_of, positive_int
from .base import LearnableConv2d, relative_error

__all__ = ["CoCConv2d"]

NORMALIZATIONS = (None, "standardize", "orthogonalize", "layer_norm")


class CoCConv2d(LearnableConv2d):
    r"""Convolution whose kernels are convolved with their neighbours first.

    Each group of ``association`` :math:`^2` kernels is laid side by side on a sheet. Every sheet is
    convolved with its own super kernel, which all input channels share, and cut back into kernels:
    :math:`K = \xi^{-1}(s * \xi(W) + \xi(W))`. K is convolved with the input. The last sheet is
    filled up with zeros.

    Parameters: ``weight`` (out, in / groups, kH, kW) and ``super_weight`` (layers, sheets, rows,
    columns), which starts at zero with ``skip`` and at the identity without, so that training
    starts from the plain convolution; with ``normalize='standardize'`` also ``gain`` and ``mean``
    (out). ``normalize='layer_norm'`` is what the authors' released code computes, but not in the
    paper's formula: :math:`K = \mathrm{LN}(\xi^{-1}(\mathrm{LN}(\bar s * \xi(W)) + \xi(W)))`,
    with :math:`\bar s` the super kernel standardised; the first layer norm is over an input
    channel's sheets, the second over a filter. It adds ``super_gain`` and ``super_mean`` (layers,
    sheets, sheet rows, sheet columns), ``gain`` and ``mean`` (in / groups, kH, kW), and draws the
    super kernel; ``gain`` starts at the drawn kernel's deviation.

    Args:
        in_channels ... padding_mode: as ``nn.Conv2d``.
        association: kernels along each side of a sheet; 1 for no association. Default: 2.
        super_layers: super convolutions one after the other. Default: 1.
        skip: whether a super convolution adds its input. Default: ``True``.
        dilated: super kernels of 3x3 with dilation 2 for 3x3 kernels, 5x5 with dilation 2 for 5x5
            and with dilation 3 for 7x7; if ``False``, two cells larger than an odd kernel, one than
            an even one, undilated. Default: ``True``.
        normalize: ``None``, ``'standardize'`` (each filter's mean and deviation are ``mean`` and
            ``gain``), ``'orthogonalize'`` (the flattened filters are orthonormal) or
            ``'layer_norm'`` (as above). Default: ``None``.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument outside what is allowed, or more filters than a filter has elements
            with ``'orthogonalize'``.
    """

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
        association: int = 2,
        super_layers: int = 1,
        skip: bool = True,
        dilated: bool = True,
        normalize: str | None = None,
    ) -> None:
        geometry = stride, padding, dilation, groups, bias, padding_mode
        super().__init__(in_channels, out_channels, kernel_size, *geometry)
        self.association = positive_int("association", association)
        self.super_layers = positive_int("super_layers", super_layers)
        self.skip = skip
        self.normalize = one_of("normalize", normalize, NORMALIZATIONS)
        self.weight = nn.Parameter(torch.empty(self.conv_weight_shape))
        numel = self.weight[0].numel()
        if normalize == "orthogonalize" and out_channels > numel:
            raise UserValueError(
                f"normalize: 'orthogonalize' needs out_channels <= in_channels / groups * kernel "
                f"cells, and {out_channels} > {in_channels // groups} * "
                f"{self.kernel_size[0]} * {self.kernel_size[1]} = {numel}"
            )
        if association > 1:
            sides, self.super_dilation = zip(
                *(_super_side(k, dilated) for k in self.kernel_size), strict=True
            )
            sheets = -(-out_channels // association**2)
            self.super_weight = nn.Parameter(torch.empty(super_layers, sheets, *sides))
        else:
            self.register_parameter("super_weight", None)
        if normalize == "standardize":
            self.gain = nn.Parameter(torch.empty(out_channels))
            self.mean = nn.Parameter(torch.empty(out_channels))
        if normalize == "layer_norm":
            self.gain = nn.Parameter(torch.empty(self.conv_weight_shape[1:]))
            self.mean = nn.Parameter(torch.empty(self.conv_weight_shape[1:]))
            if self.super_weight is not None:
                picture = [association * k for k in self.kernel_size]
                shape = (super_layers, self.super_weight.shape[1], *picture)
                self.super_gain = nn.Parameter(torch.empty(shape))
                self.super_mean = nn.Parameter(torch.empty(shape))
        if normalize == "orthogonalize":
            # Distinguishes this layer's state dict from a plain convolution's, which is refused.
            self.register_buffer("orthogonal", torch.ones(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights and bias as ``nn.Conv2d`` does, and start from that function."""
        plain = self._equivalent_conv()
        self.init_from_conv_weight_(plain.weight.data)
        if self.bias is not None:
            self.bias.data.copy_(plain.bias.data)

    @torch.no_grad()
    def init_from_conv_weight_(self, weight: Tensor) -> None:
        """Start from the plain kernel, or from its orthogonalised form."""
        self.weight.copy_(weight)
        if self.super_weight is not None:
            self.super_weight.zero_()
            if not self.skip:
                rows, columns = self.super_weight.shape[2:]
                self.super_weight[:, :, rows // 2, columns // 2] = 1
        if self.normalize == "layer_norm":
            nn.init.constant_(self.gain, weight.float().std(correction=0).item())
            nn.init.zeros_(self.mean)
            if self.super_weight is not None:
                nn.init.kaiming_normal_(self.super_weight.flatten(0, 1)[:, None])
                nn.init.ones_(self.super_gain)
                nn.init.zeros_(self.super_mean)
        if self.normalize == "standardize":
            flat = weight.flatten(1)
            self.mean.copy_(flat.mean(1))
            self.gain.copy_((flat.var(1, correction=0) + STANDARDIZE_EPS).sqrt())

    def load_conv_weight_(self, weight: Tensor) -> float:
        """Exact; raises for ``'orthogonalize'`` and ``'layer_norm'``: no plain kernel fits them."""
        lost = dict(
            orthogonalize="filters are not orthonormal",
            layer_norm="filters have different standard deviations",
        )
        if self.normalize in lost:
            raise UserValueError(
                f"a plain kernel's {lost[self.normalize]}: normalize={self.normalize!r} cannot "
                "compute the same function; train it from scratch, or use another normalize"
            )
        self.init_from_conv_weight_(weight)
        return relative_error(self.dense_kernel(), weight)

    def dense_kernel(self) -> Tensor:
        """The associated and normalised kernel, ``(out, in / groups, kH, kW)``."""
        kernel = self.weight
        if self.super_weight is not None:
            norms = None
            if self.normalize == "layer_norm":
                norms = self.super_gain, self.super_mean
            kernel = associate_kernels(
                kernel, self.super_weight, self.association, self.super_dilation, self.skip, norms
            )
        if self.normalize == "standardize":
            kernel = standardize(kernel, self.gain, self.mean)
        elif self.normalize == "orthogonalize":
            kernel = orthogonalize(kernel)
        elif self.normalize == "layer_norm":
            kernel = normalize_filters(kernel, self.gain, self.mean)
        return kernel

    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``(N, in_channels, H, W)`` to ``nn.Conv2d``'s ``(N, out_channels, H', W')``."""
        return self._convolve(input, self.dense_kernel())

    def extra_repr(self) -> str:
        parts = [super().extra_repr()]
        if self.super_weight is not None:
            parts.append(f"association={self.association}, super_layers={self.super_layers}")
        if self.normalize:
            parts.append(f"normalize={self.normalize!r}")
        return ", ".join(parts)


def _super_side(kernel_size: int, dilated: bool) -> tuple[int, int]:
    """Size and dilation of a super kernel along one side; odd, so that a sheet keeps its size."""
    if not dilated:
        return kernel_size + 2 - (kernel_size % 2 == 0), 1
    size = 3 if kernel_size <= 3 else 5
    return size, max(1, round((2 * kernel_size - 2) / (size - 1)))
