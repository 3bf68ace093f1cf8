// Sizes of a region-aware convolution whose filters factorise.
#pragma once

#include "geometry.h"

namespace mmlearnconv {

struct Regions {
  Geometry map;
  int64_t batch, channels, regions;
  int64_t kernel_rows, kernel_columns;

  C10_HOST_DEVICE int64_t taps() const {
    return kernel_rows * kernel_columns;
  }
  C10_HOST_DEVICE int64_t places() const {
    return map.y.out_size * map.x.out_size;
  }
  // The pixel of the batch under tap (u, v) at location (y, x) of image n, or -1 off the map.
  C10_HOST_DEVICE int64_t pixel(int64_t n, int64_t y, int64_t x, int64_t u, int64_t v) const {
    const int64_t row = map.y.at(y, u), column = map.x.at(x, v);
    if (!map.y.holds(row) || !map.x.holds(column)) return -1;
    return (n * map.y.size + row) * map.x.size + column;
  }
};

// Checked sizes of a call; `pattern` is (N, regions, kH, kW), `input` channels_last.
inline Regions regions(
    const at::Tensor& input, const at::Tensor& pattern, at::IntArrayRef output_size,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation) {
  TORCH_CHECK(
      input.dim() == 4 && input.is_contiguous(at::MemoryFormat::ChannelsLast),
      "drconv: input ", input.sizes(), " must be (N, C, H, W), channels_last");
  TORCH_CHECK(
      pattern.dim() == 4 && pattern.size(0) == input.size(0) && pattern.is_contiguous() &&
          pattern.scalar_type() == input.scalar_type(),
      "drconv: pattern ", pattern.sizes(), " of ", pattern.scalar_type(), " must be (",
      input.size(0), ", regions, kH, kW) of ", input.scalar_type());
  return {
      geometry(input.sizes().slice(2), output_size, stride, padding, dilation), input.size(0),
      input.size(1), pattern.size(1), pattern.size(2), pattern.size(3)};
}

}  // namespace mmlearnconv
