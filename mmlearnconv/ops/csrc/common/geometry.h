// What every operation knows of a convolution's geometry.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/macros/Macros.h>
#include <c10/util/Exception.h>

#include <cstdint>

namespace mmlearnconv {

// Output i reads input i * stride - padding + cell * dilation. Padding may be negative: for a tile
// of a map it is relative to the tile's first row and column.
struct Axis {
  int64_t size, out_size, stride, padding, dilation;

  C10_HOST_DEVICE int64_t first(int64_t cell) const {
    return cell * dilation - padding;
  }
  C10_HOST_DEVICE int64_t at(int64_t i, int64_t cell) const {
    return i * stride + first(cell);
  }
  C10_HOST_DEVICE bool holds(int64_t place) const {
    return place >= 0 && place < size;
  }
  // Whether any output reads inside the input.
  C10_HOST_DEVICE bool reaches(int64_t cell) const {
    return first(cell) < size && at(out_size - 1, cell) >= 0;
  }
};

struct Geometry {
  Axis y, x;
};

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
