// Sizes of a region-aware convolution whose filters factorise.
#pragma once

#include "geometry.h"
#include "launch.h"

namespace mmlearnconv {

// Indices are of type I.
template <typename I>
struct RegionsOf {
  GeometryOf<I> map;
  I batch, channels, regions;
  I kernel_rows, kernel_columns;

  C10_HOST_DEVICE I taps() const {
    return kernel_rows * kernel_columns;
  }
  C10_HOST_DEVICE I locations() const {
    return map.y.out_size * map.x.out_size;
  }
  // The pixel of the batch under tap (u, v) at location (y, x) of image n, or -1 off the map.
  C10_HOST_DEVICE I pixel(I n, I y, I x, I u, I v) const {
    const I row = map.y.at(y, u), column = map.x.at(x, v);
    if (!map.y.holds(row) || !map.x.holds(column)) return -1;
    return (n * map.y.size + row) * map.x.size + column;
  }
};
typedef RegionsOf<int64_t> Regions;

inline RegionsOf<int32_t> in_32_bits(const Regions& r) {
  in_32_bits(r.batch * r.locations());
  in_32_bits(r.batch * r.map.y.size * r.map.x.size);
  return {in_32_bits(r.map),     in_32_bits(r.batch),       in_32_bits(r.channels),
          in_32_bits(r.regions), in_32_bits(r.kernel_rows), in_32_bits(r.kernel_columns)};
}

// Checked sizes of a call; `pattern` is (N, regions, kH, kW), `input` channels_last.
inline Regions regions(
    const at::Tensor& input, const at::Tensor& pattern, at::IntArrayRef output_size,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation) {
  TORCH_CHECK(
      input.dim() == 4 && input.is_contiguous(at::MemoryFormat::ChannelsLast), "drconv: input ",
      input.sizes(), " must be (N, C, H, W), channels_last");
  TORCH_CHECK(
      pattern.dim() == 4 && pattern.size(0) == input.size(0) && pattern.is_contiguous() &&
          pattern.scalar_type() == accumulate_dtype(input),
      "drconv: pattern ", pattern.sizes(), " of ", pattern.scalar_type(), " must be (",
      input.size(0), ", regions, kH, kW) of ", accumulate_dtype(input));
  return {
      geometry(input.sizes().slice(2), output_size, stride, padding, dilation),
      input.size(0),
      input.size(1),
      pattern.size(1),
      pattern.size(2),
      pattern.size(3)};
}

// Locations order[begin..end-1], and the region of every location.
inline void check_places(
    const Regions& r, const at::Tensor& region, const at::Tensor& order, int64_t begin,
    int64_t end) {
  const int64_t locations = r.batch * r.locations();
  TORCH_CHECK(
      region.is_contiguous() && order.is_contiguous() && region.numel() == locations &&
          order.numel() == locations && region.scalar_type() == at::kLong &&
          order.scalar_type() == at::kLong && 0 <= begin && begin <= end && end <= locations,
      "drconv: region ", region.sizes(), " and order ", order.sizes(), " must be contiguous with ",
      locations, " elements of Long, and contain the range ", begin, " to ", end);
}

inline void check_features(
    const Regions& r, const at::Tensor& features, const at::Tensor& input, int64_t begin,
    int64_t end) {
  TORCH_CHECK(
      features.is_contiguous() && features.numel() == (end - begin) * 2 * r.channels &&
          features.scalar_type() == input.scalar_type() &&
          (input.scalar_type() == at::kFloat || input.scalar_type() == at::kDouble),
      "drconv: features ", features.sizes(), " of ", features.scalar_type(), " must be (",
      end - begin, ", 2, ", r.channels, "), contiguous, of float32 or float64 like the input");
}

inline void check_feature_grads(
    const at::Tensor& input, const at::Tensor& pattern, const at::Tensor& grad_input,
    const at::Tensor& grad_pattern) {
  TORCH_CHECK(
      grad_input.is_contiguous(at::MemoryFormat::ChannelsLast) &&
          grad_input.sizes() == input.sizes() && grad_pattern.is_contiguous() &&
          grad_pattern.sizes() == pattern.sizes() &&
          grad_input.scalar_type() == input.scalar_type() &&
          grad_pattern.scalar_type() == input.scalar_type(),
      "drconv_features_backward: grad_input must be channels_last and grad_pattern contiguous, "
      "with the shapes of input and pattern and the input's dtype");
}

inline void check_products(
    const Regions& r, const at::Tensor& products, const at::Tensor& input, int64_t begin,
    int64_t end) {
  TORCH_CHECK(
      products.is_contiguous() && products.scalar_type() == input.scalar_type() &&
          products.numel() == (end - begin) * 2 * r.regions * r.channels && 0 <= begin &&
          begin <= end && end <= r.batch * r.locations(),
      "drconv_inner: products ", products.sizes(), " must be (", end - begin, ", ", r.regions,
      ", 2, ", r.channels, ")");
}

}  // namespace mmlearnconv
