// Where the taps of a deformable kernel read its kernel space, and the map.
#pragma once

#include "geometry.h"
#include "interpolation.h"
#include "launch.h"

#include <optional>

namespace mmlearnconv {

// Indices are of type I; the pixels and the locations of a batch are counted in 32 bits.
template <typename I>
struct DeformableOf {
  GeometryOf<I> map;
  I batch, channels;
  I kernel_rows, kernel_columns;  // taps
  I scope_rows, scope_columns;    // cells of the kernel space

  C10_HOST_DEVICE I taps() const {
    return kernel_rows * kernel_columns;
  }
  C10_HOST_DEVICE I cells() const {
    return scope_rows * scope_columns;
  }
  C10_HOST_DEVICE I locations() const {
    return map.y.out_size * map.x.out_size;
  }
};
typedef DeformableOf<int64_t> Deformable;

inline DeformableOf<int32_t> in_32_bits(const Deformable& d) {
  return {in_32_bits(d.map),          in_32_bits(d.batch),          in_32_bits(d.channels),
          in_32_bits(d.kernel_rows),  in_32_bits(d.kernel_columns), in_32_bits(d.scope_rows),
          in_32_bits(d.scope_columns)};
}

template <typename T>
struct DeformableTap {
  BilinearWeights<T> space;  // cells
  BilinearWeights<T> map;    // pixels of the batch; without data offsets only at[0], -1 outside
};

// Tap (u, v) at location (y, x) of image `n`; offsets are (N, 2 taps, H', W'), row before column.
template <typename T, bool HAS_DATA_OFFSETS, typename I>
C10_HOST_DEVICE C10_ALWAYS_INLINE DeformableTap<T> deformable_tap(
    const DeformableOf<I>& d, const T* offsets, const T* data_offsets, I n, I y, I x, I u, I v) {
  const int64_t of_row = 2 * (n * d.taps() + u * d.kernel_columns + v);
  const int64_t own = of_row * d.locations() + y * d.map.x.out_size + x;
  const I pixels = d.map.y.size * d.map.x.size;
  DeformableTap<T> t;
  t.space = bilinear_weights(
      clipped(static_cast<T>(d.scope_rows - d.kernel_rows) / 2 + u + offsets[own], d.scope_rows),
      clipped(
          static_cast<T>(d.scope_columns - d.kernel_columns) / 2 + v + offsets[own + d.locations()],
          d.scope_columns),
      d.scope_columns);
  const I row = d.map.y.at(y, u), column = d.map.x.at(x, v);
  if (HAS_DATA_OFFSETS) {
    T at_y = static_cast<T>(row) + data_offsets[own];
    T at_x = static_cast<T>(column) + data_offsets[own + d.locations()];
    // If one coordinate is NaN, both become NaN: off the map the NaN would be lost.
    if (at_y != at_y) at_x = at_y;
    if (at_x != at_x) at_y = at_x;
    t.map = bilinear_weights(on_map(at_y, d.map.y.size), on_map(at_x, d.map.x.size), d.map.x.size);
    for (int i = 0; i < 4; ++i)
      if (t.map.index[i] >= 0) t.map.index[i] += n * pixels;
  } else {
    const bool inside = d.map.y.holds(row) && d.map.x.holds(column);
    t.map.index[0] = inside ? n * pixels + row * d.map.x.size + column : -1;
    // A NaN offset must reach the output even if its tap is off the map: read the first pixel.
    const T share = t.space.weight[0];
    if (!inside && share != share) t.map.index[0] = n * pixels;
  }
  return t;
}

// Checked sizes of a call; `space` is (rows, columns) of the kernel space.
inline Deformable deformable(
    const at::Tensor& input, const at::Tensor& offsets,
    const std::optional<at::Tensor>& data_offsets, at::IntArrayRef kernel_size,
    at::IntArrayRef space, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation) {
  const int64_t offset_channels = 2 * kernel_size[0] * kernel_size[1];
  TORCH_CHECK(input.dim() == 4, "dk: input ", input.sizes(), " must be (N, C, H, W)");
  TORCH_CHECK(
      offsets.dim() == 4 && offsets.size(0) == input.size(0) && offsets.size(1) == offset_channels,
      "dk: offsets ", offsets.sizes(), " must be (", input.size(0), ", ", offset_channels,
      ", H', W')");
  TORCH_CHECK(
      !data_offsets || data_offsets->sizes() == offsets.sizes(), "dk: data offsets ",
      data_offsets ? data_offsets->sizes() : at::IntArrayRef{}, " must be like offsets ",
      offsets.sizes());
  TORCH_CHECK(
      space[0] >= kernel_size[0] && space[1] >= kernel_size[1], "dk: a kernel space of ", space,
      " does not hold a kernel of ", kernel_size);
  in_32_bits(input.size(0) * input.size(2) * input.size(3));
  in_32_bits(offsets.size(0) * offsets.size(2) * offsets.size(3));
  return {
      geometry(input.sizes().slice(2), offsets.sizes().slice(2), stride, padding, dilation),
      input.size(0),
      input.size(1),
      kernel_size[0],
      kernel_size[1],
      space[0],
      space[1]};
}

inline Deformable depthwise_sizes(
    const at::Tensor& input, const at::Tensor& space, const at::Tensor& offsets,
    const std::optional<at::Tensor>& data_offsets, at::IntArrayRef kernel_size,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation) {
  TORCH_CHECK(
      space.dim() == 4 && input.dim() == 4 && space.size(0) == input.size(1) && space.size(1) == 1,
      "dk_depthwise: kernel space ", space.sizes(), " must be (C, 1, rows, columns), for input ",
      input.sizes());
  return deformable(
      input, offsets, data_offsets, kernel_size, space.sizes().slice(2), stride, padding, dilation);
}

// Checks `columns`, or their gradient, for the locations begin..end-1.
inline void check_columns(
    const at::Tensor& input, const at::Tensor& columns, const Deformable& d, int64_t begin,
    int64_t end) {
  TORCH_CHECK(
      input.is_contiguous(at::MemoryFormat::ChannelsLast),
      "dk_columns: input must be channels_last");
  TORCH_CHECK(
      0 <= begin && begin <= end && end <= d.batch * d.locations(), "dk_columns: locations ", begin,
      " to ", end, " must lie in 0 to ", d.batch * d.locations());
  const int64_t expected[] = {end - begin, d.cells(), d.channels};
  TORCH_CHECK(
      columns.is_contiguous() && columns.sizes() == at::IntArrayRef(expected) &&
          columns.scalar_type() == input.scalar_type(),
      "dk_columns: columns ", columns.sizes(), " of ", columns.scalar_type(), " must be ",
      at::IntArrayRef(expected), " of ", input.scalar_type(), ", contiguous");
}

inline void check_column_grads(
    const at::Tensor& input, const at::Tensor& offsets,
    const std::optional<at::Tensor>& data_offsets, const at::Tensor& grad_input,
    const at::Tensor& grad_offsets, const std::optional<at::Tensor>& grad_data_offsets) {
  TORCH_CHECK(
      grad_input.is_contiguous(at::MemoryFormat::ChannelsLast) &&
          grad_input.sizes() == input.sizes() && grad_offsets.is_contiguous() &&
          grad_offsets.sizes() == offsets.sizes() &&
          grad_input.scalar_type() == accumulate_dtype(input) &&
          grad_offsets.scalar_type() == accumulate_dtype(input) &&
          data_offsets.has_value() == grad_data_offsets.has_value(),
      "dk_columns_backward: grad_input must be channels_last and grad_offsets contiguous, with the "
      "shapes of input and offsets and the dtype of the input's sums");
}

}  // namespace mmlearnconv
