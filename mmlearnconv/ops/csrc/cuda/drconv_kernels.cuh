// Region-aware convolution; maps are channels_last.
#pragma once

#include "../common/drconv.h"
#include "launch.cuh"

#include <ATen/Dispatch.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

namespace mmlearnconv {

// Work items are locations, order[begin] first.
template <typename T>
struct RegionFeatures {
  // The pixel under a tap, or -1, and its factor in the region's pattern.
  struct Entry {
    int64_t pixel;
    T factor;
  };
  typedef Sums<T, 2> Total;
  Regions r;
  T* out;  // (location, 2, C), from order[begin] on
  const T *input, *pattern;
  const int64_t *region, *order;
  int64_t begin;

  C10_HOST_DEVICE int64_t taps() const {
    return r.taps();
  }
  C10_HOST_DEVICE int64_t channels() const {
    return r.channels;
  }
  C10_HOST_DEVICE Entry entry(int64_t i, int64_t k) const {
    const int64_t j = order[begin + i];
    const Location index = Location::of(j, r.map.y.out_size, r.map.x.out_size);
    return {
        r.pixel(index.n, index.y, index.x, k / r.kernel_columns, k % r.kernel_columns),
        pattern[(index.n * r.regions + region[j]) * r.taps() + k]};
  }
  C10_HOST_DEVICE Total start(int64_t, int64_t) const {
    return {};
  }
  C10_HOST_DEVICE void add(Total& total, const Entry& entry, int64_t, int64_t c) const {
    if (entry.pixel < 0) return;
    const T value = input[entry.pixel * r.channels + c];
    total.value[0] += entry.factor * value;
    total.value[1] += value;
  }
  C10_HOST_DEVICE void store(int64_t i, int64_t c, const Total& total) const {
    out[i * 2 * r.channels + c] = total.value[0];
    out[(i * 2 + 1) * r.channels + c] = total.value[1];
  }
};

// Each pixel gathers from all locations that read it; `rank` is the inverse of `order`.
template <typename T>
struct RegionInputGrad {
  // A location that reads the pixel, counted from order[begin], or -1, and the tap's factor there.
  struct Entry {
    int64_t location;
    T factor;
  };
  typedef Sums<T, 1> Total;
  Regions r;
  T* grad_input;
  const T *grad, *pattern;
  const int64_t *region, *rank;
  int64_t begin, end;

  C10_HOST_DEVICE int64_t taps() const {
    return r.taps();
  }
  C10_HOST_DEVICE int64_t channels() const {
    return r.channels;
  }
  C10_HOST_DEVICE Entry entry(int64_t i, int64_t k) const {
    const Location index = Location::of(i, r.map.y.size, r.map.x.size);
    const int64_t y = output_index_of(r.map.y, index.y, k / r.kernel_columns);
    const int64_t x = output_index_of(r.map.x, index.x, k % r.kernel_columns);
    if (y < 0 || x < 0) return {-1, T(0)};
    const int64_t j = (index.n * r.map.y.out_size + y) * r.map.x.out_size + x;
    if (rank[j] < begin || rank[j] >= end) return {-1, T(0)};
    return {rank[j] - begin, pattern[(index.n * r.regions + region[j]) * r.taps() + k]};
  }
  C10_HOST_DEVICE Total start(int64_t, int64_t) const {
    return {};
  }
  C10_HOST_DEVICE void add(Total& total, const Entry& entry, int64_t, int64_t c) const {
    if (entry.location < 0) return;
    const T* const features = grad + entry.location * 2 * r.channels + c;
    total.value[0] += entry.factor * features[0] + features[r.channels];
  }
  C10_HOST_DEVICE void store(int64_t i, int64_t c, const Total& total) const {
    grad_input[i * r.channels + c] += total.value[0];
  }
};

// Contributions to the pattern's gradient, one warp per location and tap.
template <typename T>
struct RegionPatternGrad {
  Regions r;
  T* out;          // (location, tap)
  int64_t* owner;  // index of each location's image and region in (N, regions)
  const T *grad, *input;
  const int64_t *region, *order;
  int64_t begin;

  C10_HOST_DEVICE Sums<T, 1> sums(int64_t i, int lane) const {
    const int64_t own = i / r.taps(), k = i - own * r.taps(), j = order[begin + own];
    const Location index = Location::of(j, r.map.y.out_size, r.map.x.out_size);
    const int64_t pixel =
        r.pixel(index.n, index.y, index.x, k / r.kernel_columns, k % r.kernel_columns);
    Sums<T, 1> total;
    if (pixel < 0) return total;
    for (int64_t c = lane; c < r.channels; c += kLanesOfWarp)
      total.value[0] += grad[own * 2 * r.channels + c] * input[pixel * r.channels + c];
    return total;
  }
  C10_HOST_DEVICE void store(int64_t i, const Sums<T, 1>& total) const {
    const int64_t own = i / r.taps(), j = order[begin + own];
    if (i == own * r.taps()) {
      const Location index = Location::of(j, r.map.y.out_size, r.map.x.out_size);
      owner[own] = index.n * r.regions + region[j];
    }
    out[i] = total.value[0];
  }
};

// The guide's gradient, one warp per location and region.
template <typename T>
struct RegionInner {
  Regions r;
  T* out;  // (location, region), from location `begin` on
  const T *products, *input, *pattern;
  int64_t begin;

  C10_HOST_DEVICE Sums<T, 1> sums(int64_t i, int lane) const {
    const int64_t own = i / r.regions, t = i - own * r.regions;
    const Location index = Location::of(begin + own, r.map.y.out_size, r.map.x.out_size);
    const T* const shares = pattern + (index.n * r.regions + t) * r.taps();
    const T* const scale_products = products + (own * 2 * r.regions + t) * r.channels;
    const T* const bias_products = scale_products + r.regions * r.channels;
    Sums<T, 1> total;
    for (int64_t k = 0; k < r.taps(); ++k) {
      const int64_t pixel =
          r.pixel(index.n, index.y, index.x, k / r.kernel_columns, k % r.kernel_columns);
      if (pixel < 0) continue;
      for (int64_t c = lane; c < r.channels; c += kLanesOfWarp)
        total.value[0] +=
            (shares[k] * scale_products[c] + bias_products[c]) * input[pixel * r.channels + c];
    }
    return total;
  }
  C10_HOST_DEVICE void store(int64_t i, const Sums<T, 1>& total) const {
    out[i] = total.value[0];
  }
};

struct DrconvOperators {
  OnCuda launch;

  void features(
      const at::Tensor& input, const at::Tensor& pattern, const at::Tensor& region,
      const at::Tensor& order, at::IntArrayRef output_size, at::IntArrayRef stride,
      at::IntArrayRef padding, at::IntArrayRef dilation, int64_t begin, int64_t end,
      at::Tensor out) const {
    const Regions r = regions(input, pattern, output_size, stride, padding, dilation);
    check_places(r, region, order, begin, end);
    check_features(r, out, input, begin, end);
    AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "drconv_features", [&] {
      launch.with_taps(
          end - begin, RegionFeatures<scalar_t>{
                           r, out.data_ptr<scalar_t>(), input.const_data_ptr<scalar_t>(),
                           pattern.const_data_ptr<scalar_t>(), region.const_data_ptr<int64_t>(),
                           order.const_data_ptr<int64_t>(), begin});
    });
  }

  void features_backward(
      const at::Tensor& grad, const at::Tensor& input, const at::Tensor& pattern,
      const at::Tensor& region, const at::Tensor& order, at::IntArrayRef output_size,
      at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, int64_t begin,
      int64_t end, at::Tensor grad_input, at::Tensor grad_pattern) const {
    const Regions r = regions(input, pattern, output_size, stride, padding, dilation);
    check_places(r, region, order, begin, end);
    check_features(r, grad, input, begin, end);
    check_feature_grads(input, pattern, grad_input, grad_pattern);
    if (begin == end) return;
    const at::Tensor rank = at::empty_like(order);
    rank.scatter_(0, order, at::arange(order.numel(), order.options()));
    const at::Tensor by_place = at::empty({end - begin, r.taps()}, pattern.options());
    const at::Tensor owner = at::empty({end - begin}, order.options());
    AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "drconv_features_backward", [&] {
      launch.with_taps(
          input.numel() / r.channels,
          RegionInputGrad<scalar_t>{
              r, grad_input.data_ptr<scalar_t>(), grad.const_data_ptr<scalar_t>(),
              pattern.const_data_ptr<scalar_t>(), region.const_data_ptr<int64_t>(),
              rank.const_data_ptr<int64_t>(), begin, end});
      launch.warps(
          by_place.numel(),
          RegionPatternGrad<scalar_t>{
              r, by_place.data_ptr<scalar_t>(), owner.data_ptr<int64_t>(),
              grad.const_data_ptr<scalar_t>(), input.const_data_ptr<scalar_t>(),
              region.const_data_ptr<int64_t>(), order.const_data_ptr<int64_t>(), begin});
    });
    grad_pattern.view({-1, r.taps()}).index_add_(0, owner, by_place);
  }

  at::Tensor inner(
      const at::Tensor& products, const at::Tensor& input, const at::Tensor& pattern,
      at::IntArrayRef output_size, at::IntArrayRef stride, at::IntArrayRef padding,
      at::IntArrayRef dilation, int64_t begin, int64_t end) const {
    const Regions r = regions(input, pattern, output_size, stride, padding, dilation);
    check_products(r, products, input, begin, end);
    const at::Tensor out = at::empty({end - begin, r.regions}, input.options());
    AT_DISPATCH_FLOATING_TYPES(input.scalar_type(), "drconv_inner", [&] {
      launch.warps(
          out.numel(),
          RegionInner<scalar_t>{
              r, out.data_ptr<scalar_t>(), products.const_data_ptr<scalar_t>(),
              input.const_data_ptr<scalar_t>(), pattern.const_data_ptr<scalar_t>(), begin});
    });
    return out;
  }
};

}  // namespace mmlearnconv
