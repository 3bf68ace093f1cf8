// Region-aware convolution with filters filter_scale_t * pattern_nt + filter_bias_t, in
// channels_last. For location j of image n, with x[k, c] the input under tap k:
//   weighted[j, t, c] = sum over k of pattern[n, t, k] * x[k, c]
//   plain[j, c] = sum over k of x[k, c]
//   features: out[j, 0, c] = weighted[j, t, c] for the region t of j, out[j, 1, c] = plain[j, c]
//   inner: out[j, t] = sum over c of products[j, t, 0, c] * weighted[j, t, c]
//                                    + products[j, t, 1, c] * plain[j, c]
// Each vector holds consecutive channels.

#include "../common/drconv.h"
#include "vector.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

namespace mmlearnconv {
namespace {

constexpr int64_t kLocations = 16;  // that a thread takes at once

// Pixels under the taps of a location, -1 off the map.
void pixels_of(std::vector<int64_t>& pixels, const Regions& r, int64_t j) {
  const int64_t n = j / r.locations(), place = j % r.locations();
  const int64_t y = place / r.map.x.out_size, x = place % r.map.x.out_size;
  pixels.resize(r.taps());
  for (int64_t u = 0; u < r.kernel_rows; ++u)
    for (int64_t v = 0; v < r.kernel_columns; ++v)
      pixels[u * r.kernel_columns + v] = r.pixel(n, y, x, u, v);
}

template <typename T>
MMLC_INLINE void features_place(
    T* out, const T* input, const T* pattern, const int64_t* pixels, int64_t taps,
    int64_t channels) {
  typedef typename Vector<T>::type V;
  for (int64_t c = 0; c < channels; c += kLanes<T>) {
    const int64_t lanes = std::min(kLanes<T>, channels - c);
    V weighted{}, plain{};
    for (int64_t k = 0; k < taps; ++k) {
      if (pixels[k] < 0) continue;
      const V x = load(input + pixels[k] * channels + c, lanes);
      weighted += pattern[k] * x;
      plain += x;
    }
    store(out + c, weighted, lanes);
    store(out + channels + c, plain, lanes);
  }
}

// For the channels first..last-1. Adds to grad_input and grad_pattern.
template <typename T>
MMLC_INLINE void features_backward_place(
    T* grad_input, T* grad_pattern, const T* grad, const T* input, const T* pattern,
    const int64_t* pixels, int64_t taps, int64_t channels, int64_t first, int64_t last) {
  typedef typename Vector<T>::type V;
  for (int64_t k = 0; k < taps; ++k) {
    if (pixels[k] < 0) continue;
    V product{};
    for (int64_t c = first; c < last; c += kLanes<T>) {
      const int64_t lanes = std::min(kLanes<T>, last - c), offset = pixels[k] * channels + c;
      const V weighted = load(grad + c, lanes), plain = load(grad + channels + c, lanes);
      product += weighted * load(input + offset, lanes);
      store(
          grad_input + offset, load(grad_input + offset, lanes) + pattern[k] * weighted + plain,
          lanes);
    }
    grad_pattern[k] += sum<T>(product);
  }
}

// `sums` and `under` are workspace for one vector per region, and per tap.
template <typename T>
MMLC_INLINE void inner_place(
    T* out, T* sums, T* under, const T* products, const T* input, const T* patterns,
    const int64_t* pixels, int64_t regions, int64_t taps, int64_t channels) {
  typedef typename Vector<T>::type V;
  constexpr int64_t n = kLanes<T>;
  std::fill(sums, sums + regions * n, T(0));
  for (int64_t c = 0; c < channels; c += n) {
    const int64_t lanes = std::min(n, channels - c);
    V plain{};
    for (int64_t k = 0; k < taps; ++k) {
      const V x = pixels[k] < 0 ? V{} : load(input + pixels[k] * channels + c, lanes);
      store(under + k * n, x);
      plain += x;
    }
    for (int64_t t = 0; t < regions; ++t) {
      V weighted{};
      for (int64_t k = 0; k < taps; ++k) weighted += patterns[t * taps + k] * load(under + k * n);
      const V total = load(sums + t * n) + load(products + 2 * t * channels + c, lanes) * weighted +
                      load(products + (2 * t + 1) * channels + c, lanes) * plain;
      store(sums + t * n, total);
    }
  }
  for (int64_t t = 0; t < regions; ++t) out[t] = sum<T>(load(sums + t * n));
}

#define MMLC_FOR_FLOATS(T)                                                                     \
  MMLC_FOR_EVERY_CPU void features_of(                                                         \
      T* out, const T* input, const T* pattern, const int64_t* pixels, int64_t taps,           \
      int64_t channels) {                                                                      \
    features_place(out, input, pattern, pixels, taps, channels);                               \
  }                                                                                            \
  MMLC_FOR_EVERY_CPU void features_backward_of(                                                \
      T* grad_input, T* grad_pattern, const T* grad, const T* input, const T* pattern,         \
      const int64_t* pixels, int64_t taps, int64_t channels, int64_t first, int64_t last) {    \
    features_backward_place(                                                                   \
        grad_input, grad_pattern, grad, input, pattern, pixels, taps, channels, first, last);  \
  }                                                                                            \
  MMLC_FOR_EVERY_CPU void inner_of(                                                            \
      T* out, T* sums, T* under, const T* products, const T* input, const T* patterns,         \
      const int64_t* pixels, int64_t regions, int64_t taps, int64_t channels) {                \
    inner_place(out, sums, under, products, input, patterns, pixels, regions, taps, channels); \
  }
MMLC_FOR_FLOATS(float)
MMLC_FOR_FLOATS(double)
#undef MMLC_FOR_FLOATS

template <typename Run>
void for_dtype(const at::Tensor& tensor, const Run& run) {
  if (tensor.scalar_type() == at::kDouble) {
    run(double());
  } else {
    TORCH_CHECK(
        tensor.scalar_type() == at::kFloat, "drconv: ", tensor.scalar_type(),
        " is neither float32 nor float64");
    run(float());
  }
}

void drconv_features(
    const at::Tensor& input, const at::Tensor& pattern, const at::Tensor& region,
    const at::Tensor& order, at::IntArrayRef output_size, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, int64_t begin, int64_t end, at::Tensor out) {
  const Regions r = regions(input, pattern, output_size, stride, padding, dilation);
  check_places(r, region, order, begin, end);
  check_features(r, out, input, begin, end);
  const auto run = [&](auto zero) {
    typedef decltype(zero) T;
    const int64_t* const locations = order.const_data_ptr<int64_t>();
    const int64_t* const of = region.const_data_ptr<int64_t>();
    at::parallel_for(begin, end, kLocations, [&](int64_t first, int64_t last) {
      std::vector<int64_t> pixels;
      for (int64_t i = first; i < last; ++i) {
        const int64_t j = locations[i], own = (j / r.locations() * r.regions + of[j]) * r.taps();
        pixels_of(pixels, r, j);
        features_of(
            out.data_ptr<T>() + (i - begin) * 2 * r.channels, input.const_data_ptr<T>(),
            pattern.const_data_ptr<T>() + own, pixels.data(), r.taps(), r.channels);
      }
    });
  };
  if (out.numel() == 0) return;
  for_dtype(input, run);
}

void drconv_features_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& pattern,
    const at::Tensor& region, const at::Tensor& order, at::IntArrayRef output_size,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, int64_t begin,
    int64_t end, at::Tensor grad_input, at::Tensor grad_pattern) {
  const Regions r = regions(input, pattern, output_size, stride, padding, dilation);
  check_places(r, region, order, begin, end);
  check_features(r, grad, input, begin, end);
  check_feature_grads(input, pattern, grad_input, grad_pattern);
  const auto run = [&](auto zero) {
    typedef decltype(zero) T;
    const int64_t* const locations = order.const_data_ptr<int64_t>();
    const int64_t* const of = region.const_data_ptr<int64_t>();
    constexpr int64_t block = 4 * kLanes<T>;
    const int64_t blocks = (r.channels + block - 1) / block;
    const at::Tensor parts = at::zeros({blocks, pattern.numel()}, pattern.options());
    at::parallel_for(0, blocks, 1, [&](int64_t from, int64_t to) {
      std::vector<int64_t> pixels;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t j = locations[i], own = (j / r.locations() * r.regions + of[j]) * r.taps();
        pixels_of(pixels, r, j);
        for (int64_t b = from; b < to; ++b)
          features_backward_of(
              grad_input.data_ptr<T>(), parts.data_ptr<T>() + b * pattern.numel() + own,
              grad.const_data_ptr<T>() + (i - begin) * 2 * r.channels, input.const_data_ptr<T>(),
              pattern.const_data_ptr<T>() + own, pixels.data(), r.taps(), r.channels, b * block,
              std::min((b + 1) * block, r.channels));
      }
    });
    grad_pattern.add_(parts.sum(0).view(pattern.sizes()));
  };
  if (grad.numel() == 0) return;
  for_dtype(input, run);
}

at::Tensor drconv_inner(
    const at::Tensor& products, const at::Tensor& input, const at::Tensor& pattern,
    at::IntArrayRef output_size, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation, int64_t begin, int64_t end) {
  const Regions r = regions(input, pattern, output_size, stride, padding, dilation);
  check_products(r, products, input, begin, end);
  const at::Tensor out = at::empty({end - begin, r.regions}, input.options());
  const auto run = [&](auto zero) {
    typedef decltype(zero) T;
    at::parallel_for(begin, end, kLocations, [&](int64_t first, int64_t last) {
      std::vector<int64_t> pixels;
      std::vector<T> sums(r.regions * kLanes<T>), under(r.taps() * kLanes<T>);
      for (int64_t j = first; j < last; ++j) {
        pixels_of(pixels, r, j);
        inner_of(
            out.data_ptr<T>() + (j - begin) * r.regions, sums.data(), under.data(),
            products.const_data_ptr<T>() + (j - begin) * 2 * r.regions * r.channels,
            input.const_data_ptr<T>(),
            pattern.const_data_ptr<T>() + j / r.locations() * r.regions * r.taps(), pixels.data(),
            r.regions, r.taps(), r.channels);
      }
    });
  };
  if (out.numel() == 0) return out;
  for_dtype(input, run);
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(mmlearnconv, CPU, m) {
  m.impl("drconv_features", drconv_features);
  m.impl("drconv_features_backward", drconv_features_backward);
  m.impl("drconv_inner", drconv_inner);
}

}  // namespace mmlearnconv
