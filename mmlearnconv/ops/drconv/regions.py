"""Products of rows with the matrix of each row's region."""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import dispatch
from ..autograd import define, differentiable, forbid_second_derivative
from ..extension import has_kernels_for
from ..matmul import matmul_rows, matmul_rows_backward

# Elements that, on the CPU, one tile of intermediate rows may take: 4 MB in float32.
TILE = 2**20


def region_matmul(rows: Tensor, matrices: Tensor, region: Tensor, groups: int) -> Tensor:
    """``O_i = matrices[region_i] rows_i``, the rows of a region in one product.

    Args:
        rows: ``(locations, groups * K)``.
        matrices: ``(regions, out, K)``.
        region: ``(locations,)``, the index of each row's matrix.
        groups: number of groups of rows and outputs.

    Returns:
        Tensor: ``(locations, out)``.
    """
    # As an operator, so that its data-dependent sizes do not break a compiled graph.
    function = forward if torch.jit.is_tracing() else _operator
    return function(rows, matrices, region, groups)


def forward(rows: Tensor, matrices: Tensor, region: Tensor, groups: int) -> Tensor:
    """:func:`region_matmul` without a derivative."""
    if len(rows) and not dispatch.is_cpu(rows):
        buckets = RegionBuckets(region, len(matrices))
        product = buckets.matmul(buckets.fill(rows, groups), matrices)
        return buckets.rows(product).to(rows.dtype)
    order, counts = sort_by_region(region, len(matrices))
    output = rows.new_empty(len(rows), matrices.shape[1])
    for locations, matrix in zip(order.split(counts), matrices, strict=True):
        if len(locations):
            product = grouped_matmul(rows.index_select(0, locations), matrix, groups)
            output.index_copy_(0, locations, product.to(output.dtype))
    return output


def backward(
    grad: Tensor, rows: Tensor, matrices: Tensor, region: Tensor, groups: int
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`region_matmul`: of the rows, and of the matrices."""
    if len(rows) and not dispatch.is_cpu(rows):
        buckets = RegionBuckets(region, len(matrices))
        filled = buckets.fill(grad, groups), buckets.fill(rows, groups)
        grad_rows, grad_matrices = buckets.matmul_backward(*filled, matrices)
        return buckets.rows(grad_rows), grad_matrices.to(matrices.dtype)
    grad_matrices = torch.zeros_like(matrices)
    order, counts = sort_by_region(region, len(matrices))
    grad_rows = torch.empty_like(rows)
    for t, locations in enumerate(order.split(counts)):
        if len(locations):
            own = grad.index_select(0, locations), rows.index_select(0, locations)
            of_rows, grad_matrices[t] = grouped_matmul_backward(*own, matrices[t], groups)
            grad_rows.index_copy_(0, locations, of_rows)
    return grad_rows, grad_matrices


define(
    "region_matmul",
    "(Tensor rows, Tensor matrices, Tensor region, SymInt groups) -> Tensor",
    lambda rows, matrices, *_: rows.new_empty(rows.shape[0], matrices.shape[1]),
    lambda rows, matrices, *_, out_shape, **__: 2 * prod(out_shape) * matrices[2],
)(forward)
define(
    "region_matmul_backward",
    "(Tensor grad, Tensor rows, Tensor matrices, Tensor region, SymInt groups) -> (Tensor, Tensor)",
    lambda grad, rows, matrices, *_: (torch.empty_like(rows), torch.empty_like(matrices)),
)(backward)


def _context(ctx, inputs, output) -> None:
    *tensors, ctx.groups = inputs
    ctx.save_for_backward(*tensors)


_gradients = forbid_second_derivative("region_matmul_backward")
_operator = differentiable(
    "region_matmul",
    lambda ctx, grad: (*_gradients(grad, *ctx.saved_tensors, ctx.groups), None, None),
    _context,
)


def grouped_matmul(rows: Tensor, matrix: Tensor, groups: int) -> Tensor:
    """``(locations, g * K)`` by ``(out, K)`` to ``(locations, out)``, group by group."""
    if groups == 1:
        return matmul_rows(rows, matrix)
    rows = rows.unflatten(1, (groups, -1)).transpose(0, 1)
    return (rows @ matrix.unflatten(0, (groups, -1)).mT).transpose(0, 1).flatten(1)


def grouped_matmul_backward(
    grad: Tensor, rows: Tensor, matrix: Tensor, groups: int
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`grouped_matmul`: of the rows, and of the matrix."""
    if groups == 1:
        return matmul_rows_backward(grad, rows, matrix)
    grad = grad.unflatten(1, (groups, -1)).transpose(0, 1)
    rows = rows.unflatten(1, (groups, -1)).transpose(0, 1)
    grad_rows = (grad @ matrix.unflatten(0, (groups, -1))).transpose(0, 1).flatten(1)
    return grad_rows, (grad.mT @ rows).flatten(0, 1)


def sort_by_region(region: Tensor, regions: int) -> tuple[Tensor, list[int]]:
    """Locations sorted by region, and how many each region has; read on the host."""
    return region.argsort(stable=True), region.bincount(minlength=regions).tolist()


def locations_per_tile(tensor: Tensor, numel: int) -> int:
    """How many locations of ``numel`` elements each fit into a tile."""
    return max(1, dispatch.tile_numel(tensor, TILE) // max(1, numel))


def rows_to_map(rows: Tensor, size: Sequence[int], input: Tensor) -> Tensor:
    """``(N, locations, out)`` as ``(N, out, H', W')``, in the input's memory format."""
    maps = rows.reshape(rows.shape[0], *size, rows.shape[2])
    return dispatch.match_memory_format(maps.permute(0, 3, 1, 2), input)


class RegionBuckets:
    """Rows grouped by region on their device, in buckets of one size.

    All rows of a bucket belong to the same region. Regions are padded to whole buckets, and the
    number of buckets does not depend on the data. The products of all buckets with their matrices
    are then one batched product.

    Args:
        region: ``(locations,)``, the region of each row.
        regions: number of regions.

    Attributes:
        slot: ``(locations,)``, each location's place among those of all buckets.
        location: ``(slots,)``, the inverse; ``len(region)`` in a slot that holds none.
        region: ``(buckets,)``, the region of each.
    """

    def __init__(self, region: Tensor, regions: int) -> None:
        locations = len(region)
        # A bucket's copy of its matrix should not cost more than its rows.
        self.size = min(256, max(16, locations // max(1, regions)))
        self.count = -(-locations // self.size) + regions
        if has_kernels_for(region.device.type, "drconv_sort"):
            sort = torch.ops.mmlearnconv.drconv_sort
            self.slot, self.location, self.region = sort(region, regions, self.size)
            return
        region, order = region.sort(stable=True)
        numbers = torch.arange(max(locations, self.count, regions + 1), device=region.device)
        starts = torch.searchsorted(region, numbers[: regions + 1])
        ends = ((starts.diff() + self.size - 1) // self.size).cumsum(0)
        first = F.pad(ends, (1, 0))[region]
        # Buckets after the last region's hold zeros: any region will do for them.
        self.region = torch.searchsorted(ends, numbers[: self.count], right=True)
        self.region.clamp_(max=regions - 1)
        slot = first * self.size + numbers[:locations] - starts[region]
        self.slot = torch.empty_like(slot).scatter_(0, order, slot)
        self.location = slot.new_full((self.count * self.size,), locations)
        self.location.index_copy_(0, slot, order)

    def split(self, rows: Tensor, groups: int) -> Tensor:
        """``(slots, groups * K)`` as ``(buckets, groups, size, K)``."""
        return rows.view(self.count, self.size, groups, -1).transpose(1, 2)

    def fill(self, rows: Tensor, groups: int) -> Tensor:
        """``(locations, groups * K)`` as ``(buckets, groups, size, K)``."""
        filled = rows.new_zeros(self.count * self.size, rows.shape[1])
        return self.split(filled.index_copy_(0, self.slot, rows), groups)

    def rows(self, filled: Tensor) -> Tensor:
        """The inverse of :meth:`fill`."""
        return filled.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, self.slot)

    def matmul(self, filled: Tensor, matrices: Tensor) -> Tensor:
        """Each bucket times its region's of ``(regions, out, K)``, transposed."""
        return filled @ self._matrices(matrices, filled.shape[1]).mT

    def matmul_backward(
        self, grad: Tensor, filled: Tensor, matrices: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients of :meth:`matmul`: of the rows, and of the matrices in the sums' dtype."""
        dtype = dispatch.accumulate_dtype(matrices.dtype)
        grad_matrices = torch.zeros_like(matrices, dtype=dtype)
        of_buckets = (grad.mT @ filled).flatten(1, 2).to(dtype)
        grad_matrices.index_add_(0, self.region, of_buckets)
        return grad @ self._matrices(matrices, grad.shape[1]), grad_matrices

    def _matrices(self, matrices: Tensor, groups: int) -> Tensor:
        """Each bucket's, ``(buckets, groups, out / groups, K)``."""
        return matrices.index_select(0, self.region).unflatten(1, (groups, -1))
