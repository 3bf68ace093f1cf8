// What every operation knows of a convolution's geometry.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/macros/Macros.h>
#include <c10/util/Exception.h>

#include <cstdint>

namespace mmlearnconv {

// Output i reads input i * stride - padding + cell * dilation. Padding may be negative: for a tile
// of a map it is relative to the tile's first row and column.
// Indices are of type I: 64 bits on the CPU; 32 on a GPU, which has no instructions for more.
template <typename I>
struct AxisOf {
  I size, out_size, stride, padding, dilation;

  C10_HOST_DEVICE I first(I cell) const {
    return cell * dilation - padding;
  }
  C10_HOST_DEVICE I at(I i, I cell) const {
    return i * stride + first(cell);
  }
  C10_HOST_DEVICE bool holds(I place) const {
    return place >= 0 && place < size;
  }
  // Whether any output reads inside the input.
  C10_HOST_DEVICE bool reaches(I cell) const {
    return first(cell) < size && at(out_size - 1, cell) >= 0;
  }
  // The output that reads input `place` through `cell`, or -1 if there is none.
  C10_HOST_DEVICE C10_ALWAYS_INLINE I output_of(I place, I cell) const {
    const I scaled = place - first(cell);
    if (scaled < 0 || scaled % stride != 0) return -1;
    const I output = scaled / stride;
    return output < out_size ? output : -1;
  }
};
typedef AxisOf<int64_t> Axis;

template <typename I>
struct GeometryOf {
  AxisOf<I> y, x;
};
typedef GeometryOf<int64_t> Geometry;

// Half of what 32 bits hold, so that the sum of two sizes is held, too.
inline int32_t in_32_bits(int64_t value) {
  constexpr int64_t limit = int64_t(1) << 30;
  TORCH_CHECK(
      -limit < value && value < limit, value,
      ": sizes, and how many pixels or kernels there are, must be below 2^30");
  return static_cast<int32_t>(value);
}

inline AxisOf<int32_t> in_32_bits(const Axis& axis) {
  return {
      in_32_bits(axis.size), in_32_bits(axis.out_size), in_32_bits(axis.stride),
      in_32_bits(axis.padding), in_32_bits(axis.dilation)};
}

inline GeometryOf<int32_t> in_32_bits(const Geometry& geometry) {
  return {in_32_bits(geometry.y), in_32_bits(geometry.x)};
}

inline Geometry geometry(
    at::IntArrayRef size, at::IntArrayRef out_size, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation) {
  const auto axis = [&](size_t i) {
    TORCH_CHECK(
        stride[i] > 0 && dilation[i] > 0, "stride ", stride, ", dilation ", dilation,
        ": must be positive");
    return Axis{size[i], out_size[i], stride[i], padding[i], dilation[i]};
  };
  return {axis(0), axis(1)};
}

}  // namespace mmlearnconv
