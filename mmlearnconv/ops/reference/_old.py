"""The definition of every operation, in plain PyTorch.

Short and slow on purpose: these functions follow the papers' equations as directly as possible, run
in any float dtype, and are what the tests hold every faster implementation to.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TRIANGLE_WIDTH = 1.0
GAUSS_WIDTH = 0.27
NORM_EPS = 1e-7
STANDARDIZE_EPS = 1e-5


def dcls_kernel(
    weight: Tensor,
    positions: Tensor,
    size: Sequence[int],
    interpolation: str = "bilinear",
    width: Tensor | None = None,
) -> Tensor:
    """Dense kernel of a dilated convolution with learnable spacings.

    ``K[s] = sum_e weight[e] * g(s, positions[e])`` over the cells ``s`` of a window, with ``q`` the
    position in window coordinates, ``q = positions + size // 2``, and ``g`` one of

    - ``'bilinear'``: ``prod_axis (1 - r) [s == f] + r [s == f + 1]``, ``f = floor(q)``,
      ``r = q - f`` (Khalfaoui-Hassani et al. 2023, Eq. 2-5; the derivative of ``floor`` is zero);
    - ``'triangle'``: ``prod_axis relu(1 + |width| - |s - q|)``, divided by its sum over the window;
    - ``'gauss'``: ``exp(-1/2 sum_axis ((s - q) / (0.27 + |width|))^2)``, divided by its sum.

    A position that is not a number makes all of its kernel's cells NaN.

    Args:
        weight: ``(out, in / groups, count)``.
        positions: ``(D, out, in / groups, count)``, in cells relative to the window's centre cell.
        size: the window, ``D`` numbers of cells.
        interpolation: ``'bilinear'``, ``'triangle'`` or ``'gauss'``.
        width: as ``positions``; ``None`` is zero. Not used by ``'bilinear'``.

    Returns:
        Tensor: ``(out, in / groups, *size)``.
    """
    dims = len(size)
    kernel_shape = (*weight.shape, *size)
    response = weight.new_ones(kernel_shape)
    exponent = weight.new_zeros(kernel_shape)
    for axis, cells in enumerate(size):
        view = [1] * len(kernel_shape)
        view[weight.ndim + axis] = cells
        s = torch.arange(cells, dtype=weight.dtype, device=weight.device).view(view)
        q = (positions[axis] + cells // 2)[(...,) + (None,) * dims]
        w = 0 if width is None else width[axis].abs()[(...,) + (None,) * dims]
        if interpolation == "bilinear":
            q = within(q, -2, cells + 1)
            f = q.detach().floor()
            r = q - f
            response = response * torch.where(s == f, 1 - r, torch.where(s == f + 1, r, 0 * r))
        elif interpolation == "triangle":
            response = response * (TRIANGLE_WIDTH + w - (s - q).abs()).relu()
        elif interpolation == "gauss":
            exponent = exponent - ((s - q) / (GAUSS_WIDTH + w)) ** 2 / 2
        else:
            raise ValueError(f"interpolation: {interpolation!r} is unknown")
    if interpolation == "gauss":
        response = exponent.exp()
    if interpolation != "bilinear":
        window = tuple(range(weight.ndim, response.ndim))
        response = response / (response.sum(window, keepdim=True) + NORM_EPS)
    return (weight[(...,) + (None,) * dims] * response).sum(weight.ndim - 1)


def within(position: Tensor, low: float, high: float) -> Tensor:
    """Positions brought into bounds, without a gradient beyond them; NaN stays NaN.

    Unlike ``clamp``, whose derivative at a bound depends on PyTorch's version.
    """
    inside = (position >= low) & (position <= high)
    return torch.where(inside, position, position.detach().clamp(low, high))


def conv_output_size(
    size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Rows and columns that a convolution makes of a map of ``size``."""
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel_size, stride, padding, dilation, strict=True)
    )


def im2col(
    input: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """What each tap of a kernel sees at each output location: ``(N, C, kH * kW, H', W')``."""
    size = conv_output_size(input.shape[2:], kernel_size, stride, padding, dilation)
    columns = F.unfold(input, tuple(kernel_size), tuple(dilation), tuple(padding), tuple(stride))
    taps = kernel_size[0] * kernel_size[1]
    return columns.reshape(*input.shape[:2], taps, *size)


def depthwise_taps(
    input: Tensor,
    values: Tensor,
    cells: Tensor,
    bias: Tensor | None,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Depthwise convolution whose kernel is a list of taps on the cells of a window.

    ``O_cm(x) = b_cm + sum_t values[c, m, t] I_c(x + cells[c, m, t])``: taps on one cell add, those
    outside the window count for nothing. A value that is not a number makes all of its outputs NaN.

    Args:
        input: ``(N, C, H, W)``.
        values: ``(C, multiplier, taps)``.
        cells: ``(C, multiplier, taps, 2)``, row and column from the window's first cell.
        bias: ``(C * multiplier,)`` or ``None``.
        size: of the window, rows and columns.
        stride, padding, dilation: rows and columns each.

    Returns:
        Tensor: ``(N, C * multiplier, H', W')``.
    """
    kernel = dense_taps(values, cells, size).flatten(0, 1)[:, None]
    geometry = tuple(stride), tuple(padding), tuple(dilation)
    output = F.conv2d(input, kernel, bias, *geometry, groups=len(values))
    nan = values.detach().isnan().any(2).flatten()[:, None, None]
    return output + torch.where(nan, torch.nan, 0)


def dense_taps(values: Tensor, cells: Tensor, size: Sequence[int]) -> Tensor:
    """The kernels of :func:`depthwise_taps`, ``(C, multiplier, rows, columns)``."""
    rows, columns = cells.unbind(3)
    inside = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
    index = torch.where(inside, rows * size[1] + columns, 0)
    kernels = values.new_zeros(*values.shape[:2], size[0] * size[1])
    return kernels.scatter_add(2, index, torch.where(inside, values, 0)).unflatten(2, tuple(size))


def linear_coefficients(positions: Tensor, cells: int) -> Tensor:
    """Linear interpolation at positions in ``[0, cells - 1]``, as coefficients of the cells.

    ``B(p, s) = (1 - r) [s == f] + r [s == f + 1]`` with ``f = floor(p)`` and ``r = p - f``,
    positions clipped first. The derivative at an integer is the right-hand one, at the last cell
    the left-hand one: both edges of the space let a position back in. NaN gives NaN.

    Returns:
        Tensor: ``(*positions.shape, cells)``.
    """
    p = within(positions, 0, cells - 1)[..., None]
    f = p.detach().floor().clamp(max=max(cells - 2, 0))
    # Where there is one cell, there is nowhere to move.
    r = p - f if cells > 1 else (p - f).detach()
    s = torch.arange(cells, dtype=p.dtype, device=p.device)
    return torch.where(s == f, 1 - r, torch.where(s == f + 1, r, 0 * r))


def dk_coefficients(offsets: Tensor, kernel_size: Sequence[int], scope: Sequence[int]) -> Tensor:
    """How much each cell of the kernel space counts for each tap of a deformable kernel.

    ``B(k, k') = b(y_k + dy_k, k'_y) b(x_k + dx_k, k'_x)``, with the taps at unit spacing from
    ``(scope - kernel_size) / 2`` (Gao et al. 2020, Eq. 7 and 13).

    Args:
        offsets: ``(N, 2 * kH * kW, H', W')``, row and column of tap after tap, in cells.
        kernel_size: rows and columns of taps.
        scope: rows and columns of the kernel space.

    Returns:
        Tensor: ``(N, kH * kW, scope cells, H', W')``.
    """
    offsets = offsets.unflatten(1, (*kernel_size, 2))
    rows = torch.arange(kernel_size[0], device=offsets.device) + (scope[0] - kernel_size[0]) / 2
    columns = torch.arange(kernel_size[1], device=offsets.device) + (scope[1] - kernel_size[1]) / 2
    y = offsets[:, :, :, 0] + rows.to(offsets)[:, None, None, None]
    x = offsets[:, :, :, 1] + columns.to(offsets)[:, None, None]
    b_y = linear_coefficients(y, scope[0])[..., :, None]
    b_x = linear_coefficients(x, scope[1])[..., None, :]
    return (b_y * b_x).flatten(1, 2).flatten(-2).permute(0, 1, 4, 2, 3)


def sample(input: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear samples of ``(N, C, H, W)`` at pixel positions ``(N, ...)``, zero outside the map.

    Returns:
        Tensor: ``(N, C, ...)``, NaN where a position is.
    """
    height, width = input.shape[2:]
    y, x = within(y, -2, height + 1), within(x, -2, width + 1)
    y0, x0 = y.detach().floor(), x.detach().floor()
    output = 0
    for row, weight_y in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
        for column, weight_x in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            index = index.nan_to_num().long().flatten(1)[:, None].expand(-1, input.shape[1], -1)
            value = input.flatten(2).gather(2, index).unflatten(2, y.shape[1:])
            output = output + value * (weight_y * weight_x * inside)[:, None]
    return output


def deformable_im2col(
    input: Tensor,
    offsets: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """:func:`im2col` with every tap moved: ``offsets`` as in :func:`dk_coefficients`, in pixels."""
    height, width = offsets.shape[2:]
    offsets = offsets.unflatten(1, (*kernel_size, 2))

    def grid(axis: int, count: int) -> Tensor:
        taps = torch.arange(kernel_size[axis]) * dilation[axis] - padding[axis]
        places = torch.arange(count) * stride[axis]
        return (taps[:, None] + places).to(offsets)

    y = offsets[:, :, :, 0] + grid(0, height)[:, None, :, None]
    x = offsets[:, :, :, 1] + grid(1, width)[None, :, None, :]
    return sample(input, y.flatten(1, 2), x.flatten(1, 2))


def dk_conv2d(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    data_offsets: Tensor | None = None,
) -> Tensor:
    """Convolution whose kernel is resampled from a larger kernel space.

    ``O_j = sum_k I[j + k + g_jk] W(k + delta_jk)`` with ``W(.)`` bilinear in the kernel space
    (Gao et al. 2020, Eq. 7; with data offsets ``g``, Eq. 11).

    Args:
        input: ``(N, C, H, W)``.
        weight: the kernel space, ``(out, C / groups, scope rows, scope columns)``.
        offsets: ``delta``, ``(N, 2 * kH * kW, H', W')``, or with one row and column for all places.
        kernel_size, stride, padding, dilation: rows and columns each.
        groups: as ``F.conv2d``.
        data_offsets: ``g``, ``(N, 2 * kH * kW, H', W')``, in pixels.

    Returns:
        Tensor: ``(N, out, H', W')``.
    """
    coefficients = dk_coefficients(offsets, kernel_size, weight.shape[2:])
    if data_offsets is None:
        columns = im2col(input, kernel_size, stride, padding, dilation)
    else:
        columns = deformable_im2col(input, data_offsets, kernel_size, stride, padding, dilation)
    coefficients = coefficients.expand(-1, -1, -1, *columns.shape[3:])
    kernels = torch.einsum("ocs,nkshw->nockhw", weight.flatten(2), coefficients)
    columns = columns.unflatten(1, (groups, -1))
    kernels = kernels.unflatten(1, (groups, -1))
    return torch.einsum("ngckhw,ngockhw->ngohw", columns, kernels).flatten(1, 2)


def dke_response(
    positions: Tensor, size: Sequence[int], interpolation: str, alpha: Tensor | float, radius: float
) -> Tensor:
    """How much each cell of a window counts for the value at a real position.

    ``'gauss'``: ``G(s, y) = exp(-alpha |s - y|^2) / C`` over the cells with ``|s - y| <= radius``,
    ``C`` their sum, constant in the backward pass, so that ``dG/dy = 2 alpha G (s - y)``
    (Differentiable Kernel Evolution, Eq. 13-15). ``'bilinear'``: the product of two tents.

    Args:
        positions: ``(..., 2)``, relative to the window's centre, in cells.
        size: rows and columns of the window.
        interpolation: ``'gauss'`` or ``'bilinear'``.
        alpha, radius: of ``'gauss'``.

    Returns:
        Tensor: ``(..., rows, columns)``.
    """
    y, x = (
        torch.arange(n, dtype=positions.dtype, device=positions.device) - (n - 1) / 2 for n in size
    )
    dy = y[:, None] - positions[..., 0, None, None]
    dx = x - positions[..., 1, None, None]
    if interpolation == "bilinear":
        return (1 - dy.abs()).relu() * (1 - dx.abs()).relu()
    squared = dy**2 + dx**2
    bell = torch.where(squared <= radius**2, torch.exp(-alpha * squared), 0)
    return bell / bell.detach().sum((-2, -1), keepdim=True)


def dke_conv2d(
    input: Tensor,
    weight: Tensor,
    response: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    attention: Tensor | None = None,
) -> Tensor:
    """Convolution at learned real positions of every input channel.

    ``O(x) = sum_c sum_y a_y(x) f_c(x + y) w_c(y)``, ``f_c(x + y) = sum_s G_c(s, y) f_c(x + s)``.

    Args:
        input: ``(N, C, H, W)``.
        weight: ``(out, C / groups, points)``.
        response: ``G``, ``(C, points, rows, columns)``, from :func:`dke_response`.
        stride, dilation: rows and columns each.
        padding: of the window.
        groups: as ``F.conv2d``.
        attention: ``a``, ``(N, points, H', W')``.

    Returns:
        Tensor: ``(N, out, H', W')``.
    """
    columns = im2col(input, response.shape[2:], stride, padding, dilation)
    values = torch.einsum("cps,ncshw->ncphw", response.flatten(2), columns)
    if attention is not None:
        values = values * attention[:, None]
    values = values.unflatten(1, (groups, -1))
    weight = weight.unflatten(0, (groups, -1))
    return torch.einsum("gocp,ngcphw->ngohw", weight, values).flatten(1, 2)


def associate_kernels(
    weight: Tensor,
    super_weight: Tensor,
    association: int,
    dilation: Sequence[int],
    skip: bool,
    norms: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Kernels convolved with their neighbours on a sheet (Convolution of Convolution).

    Every ``association ** 2`` kernels are laid side by side, ``(co a a) ci kh kw -> ci co (a kh)
    (a kw)``, missing ones as zeros; each super layer convolves a sheet with the sheet's own super
    kernel, shared over ``ci``; the sheet is cut back.

    Args:
        weight: ``(out, in / groups, kH, kW)``.
        super_weight: ``(layers, sheets, rows, columns)``, odd sides.
        association: kernels on a side of a sheet.
        dilation: of the super kernels, rows and columns.
        skip: whether a super layer adds its input.
        norms: gain and mean of a layer norm after each super layer, ``(layers, sheets, association
            * kH, association * kW)``, as the authors' released code has; super kernels are then
            standardised first, to mean 0 and (sample) deviation 1.

    Returns:
        Tensor: as ``weight``.
    """
    out, per_group, rows, columns = weight.shape
    a, sheets = association, super_weight.shape[1]
    missing = weight.new_zeros(sheets * a * a - out, per_group, rows, columns)
    picture = torch.cat([weight, missing]).reshape(sheets, a, a, per_group, rows, columns)
    picture = picture.permute(3, 0, 1, 4, 2, 5).reshape(per_group, sheets, a * rows, a * columns)
    padding = [d * (n // 2) for d, n in zip(dilation, super_weight.shape[2:], strict=True)]
    for layer, kernel in enumerate(super_weight):
        if norms is not None:
            deviation = kernel.std((1, 2), keepdim=True) + STANDARDIZE_EPS
            kernel = (kernel - kernel.mean((1, 2), keepdim=True)) / deviation
        moved = F.conv2d(picture, kernel[:, None], None, 1, padding, tuple(dilation), sheets)
        if norms is not None:
            gain, mean = (part[layer] for part in norms)
            moved = F.layer_norm(moved, moved.shape[1:], gain, mean)
        picture = picture + moved if skip else moved
    picture = picture.reshape(per_group, sheets, a, rows, a, columns).permute(1, 2, 4, 0, 3, 5)
    return picture.reshape(-1, per_group, rows, columns)[:out]


def standardize(weight: Tensor, gain: Tensor, mean: Tensor) -> Tensor:
    """``gain (W - mean(W)) / sqrt(var(W) + 1e-5) + mean``, filter by filter; both ``(out,)``."""
    flat = weight.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    scale = (flat.var(1, correction=0, keepdim=True) + STANDARDIZE_EPS).sqrt()
    return (gain[:, None] * centred / scale + mean[:, None]).view_as(weight)


def orthogonalize(weight: Tensor) -> Tensor:
    """Nearest kernel whose flattened filters are orthonormal, ``(V V^T)^(-1/2) V``: ``P Q^T`` of
    the singular value decomposition ``V = P S Q^T``.
    """
    left, _, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    return (left @ right).view_as(weight)


def drconv2d(
    input: Tensor,
    guide: Tensor,
    filters: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolution with the filter of each location's region (Chen et al. 2021, Eq. 3-8).

    Forward, location x uses filter ``argmax_t F_t(x)``. Backward, ``softmax(F)`` stands in for the
    one-hot mask: its gradient is ``<dL/dO(x), response of filter t at x>``. Where the largest
    number of the guide is not finite, so is no output.

    Args:
        input: ``(N, C, H, W)``.
        guide: ``F``, ``(N, regions, H', W')``.
        filters: ``(N, regions, out, C / groups, kH, kW)``.
        stride, padding, dilation: rows and columns each.
        groups: as ``F.conv2d``.

    Returns:
        Tensor: ``(N, out, H', W')``.
    """
    columns = im2col(input, filters.shape[4:], stride, padding, dilation).unflatten(1, (groups, -1))
    filters = filters.flatten(4).unflatten(2, (groups, -1))
    responses = torch.einsum("ngckhw,ntgock->ntgohw", columns, filters).flatten(2, 3)
    soft = guide.softmax(1)
    hard = F.one_hot(guide.argmax(1), guide.shape[1]).movedim(-1, 1).to(soft.dtype)
    mask = hard + soft - soft.detach()
    return (mask[:, :, None] * responses).sum(1)


def condconv2d(
    input: Tensor,
    experts: Tensor,
    routing: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolution of each image with its own mixture of expert kernels (Yang et al. 2019).

    Args:
        input: ``(N, C, H, W)``.
        experts: ``(E, out, C / groups, kH, kW)``.
        routing: ``(N, E)``.
        stride, padding, dilation, groups: as ``F.conv2d``.

    Returns:
        Tensor: ``(N, out, H', W')``.
    """
    images = [
        F.conv2d(
            image[None],
            torch.einsum("e,eocuv->ocuv", shares, experts),
            None,
            tuple(stride),
            tuple(padding),
            tuple(dilation),
            groups,
        )
        for image, shares in zip(input, routing, strict=True)
    ]
    return torch.cat(images)
