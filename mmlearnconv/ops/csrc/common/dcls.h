// Bilinear kernels of a dilated convolution with learnable spacings.
#pragma once

#include "geometry.h"
#include "launch.h"

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/macros/Macros.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <cstdint>
#include <tuple>
#include <vector>

namespace mmlearnconv {

// `count` elements in each of `kernels` windows, with D axes.
template <int D>
struct Window {
  int count, kernels, size[D];

  C10_HOST_DEVICE int cells() const {
    int cells = 1;
    for (int a = 0; a < D; ++a) cells *= size[a];
    return cells;
  }
  C10_HOST_DEVICE int elements() const {
    return kernels * count;
  }
};

// An element's lowest cell and its distance from that cell along each axis. Positions are
// (D, kernels, count), from the element's own on; `elements` of them are on an axis. A NaN position
// makes its whole kernel NaN, as does a NaN weight.
template <typename T, int D>
struct Element {
  int low[D];
  T part[D];
  bool nan = false;

  C10_HOST_DEVICE Element(const Window<D>& w, const T* positions, int elements) {
    for (int a = 0; a < D; ++a, positions += elements) {
      const T q = *positions + static_cast<T>(w.size[a] / 2);
      nan = nan || q != q;
      // Positions so far outside that no corner is in the window all get the same cell.
      const bool near = q > T(-2) && q < static_cast<T>(w.size[a] + 1);
      low[a] = near ? static_cast<int>(q + T(2)) - 2 : -2;
      part[a] = q - static_cast<T>(low[a]);
    }
  }

  // The corner's cell, -1 outside the window, and its factor on each axis.
  C10_HOST_DEVICE int cell(const Window<D>& w, int corner, T* factors) const {
    int cell = 0;
    bool inside = true;
    for (int a = 0; a < D; ++a) {
      const int upper = corner >> a & 1, index = low[a] + upper;
      inside = inside && index >= 0 && index < w.size[a];
      cell = cell * w.size[a] + index;
      factors[a] = upper ? part[a] : T(1) - part[a];
    }
    return inside ? cell : -1;
  }
};

// The gradients of one element, which is what an index counts, kernel by kernel.
template <typename T, int D>
struct ElementBackward {
  T *grad_weight, *grad_positions;
  const T *grad, *weight, *positions;
  Window<D> w;

  C10_HOST_DEVICE void operator()(int64_t i) const {
    const int64_t kernel = i / w.count;
    const Element<T, D> element(w, positions + i, w.elements());
    const T* const of_kernel = grad + kernel * w.cells();
    const T start = element.nan ? static_cast<T>(NAN) : T(0);
    T of_weight = start, slopes[D];
    for (int a = 0; a < D; ++a) slopes[a] = start;
#pragma unroll
    for (int corner = 0; corner < 1 << D; ++corner) {
      T factors[D];
      const int cell = element.cell(w, corner, factors);
      if (cell < 0) continue;
      T product = 1;
      for (int a = 0; a < D; ++a) product *= factors[a];
      of_weight += product * of_kernel[cell];
      for (int a = 0; a < D; ++a) {
        T slope = corner >> a & 1 ? T(1) : T(-1);
        for (int other = 0; other < D; ++other)
          if (other != a) slope *= factors[other];
        slopes[a] += slope * of_kernel[cell];
      }
    }
    grad_weight[i] = of_weight;
    for (int a = 0; a < D; ++a)
      grad_positions[int64_t(a) * w.elements() + i] = slopes[a] * weight[i];
  }
};

template <int D>
Window<D> window(const at::Tensor& weight, at::IntArrayRef size) {
  in_32_bits(weight.numel());
  Window<D> w{in_32_bits(weight.size(2)), in_32_bits(weight.size(0) * weight.size(1)), {}};
  for (int a = 0; a < D; ++a) w.size[a] = static_cast<int>(size[a]);
  return w;
}

inline void check_elements(
    const at::Tensor& weight, const at::Tensor& positions, at::IntArrayRef size) {
  TORCH_CHECK(
      weight.dim() == 3 && positions.dim() == 4 && positions.sizes().slice(1) == weight.sizes() &&
          positions.size(0) == static_cast<int64_t>(size.size()) && !size.empty() &&
          size.size() <= 3 && positions.scalar_type() == weight.scalar_type() &&
          positions.device() == weight.device(),
      "dcls_kernel: positions ", positions.sizes(), " of ", positions.scalar_type(), " on ",
      positions.device(), " must be (", size.size(),
      ", out, in / groups, count), at most 3 axes, "
      "for weight ",
      weight.sizes(), " of ", weight.scalar_type(), " on ", weight.device());
  int64_t cells = 1;
  for (const int64_t length : size) {
    TORCH_CHECK(
        length > 0 && (cells *= length) < int64_t(1) << 31, "dcls_kernel: window ", size,
        " must have positive sizes and fewer than 2^31 cells");
  }
}

// Calls `run` with the number of axes as a constant.
template <typename Run>
void with_axes(size_t axes, const Run& run) {
  if (axes == 1) run(std::integral_constant<int, 1>{});
  if (axes == 2) run(std::integral_constant<int, 2>{});
  if (axes == 3) run(std::integral_constant<int, 3>{});
}

// `build` fills the kernels: build(out, weight, positions, window).
template <typename Build>
at::Tensor dcls_kernel_with(
    const Build& build, const at::Tensor& weight, const at::Tensor& positions,
    at::IntArrayRef size) {
  check_elements(weight, positions, size);
  const at::Tensor weight_c = weight.contiguous(), positions_c = positions.contiguous();
  std::vector<int64_t> shape{weight.size(0), weight.size(1)};
  shape.insert(shape.end(), size.begin(), size.end());
  const at::Tensor out = at::empty(shape, weight.options());
  AT_DISPATCH_FLOATING_TYPES(weight.scalar_type(), "dcls_kernel", [&] {
    with_axes(size.size(), [&](auto axes) {
      build(
          out.data_ptr<scalar_t>(), weight_c.const_data_ptr<scalar_t>(),
          positions_c.const_data_ptr<scalar_t>(), window<axes>(weight, size));
    });
  });
  return out;
}

template <typename Launch>
std::tuple<at::Tensor, at::Tensor> dcls_kernel_backward_with(
    const Launch& launch, const at::Tensor& grad, const at::Tensor& weight,
    const at::Tensor& positions, at::IntArrayRef size) {
  check_elements(weight, positions, size);
  std::vector<int64_t> shape{weight.size(0), weight.size(1)};
  shape.insert(shape.end(), size.begin(), size.end());
  TORCH_CHECK(
      grad.sizes() == at::IntArrayRef(shape) && grad.scalar_type() == weight.scalar_type() &&
          grad.device() == weight.device(),
      "dcls_kernel_backward: grad ", grad.sizes(), " of ", grad.scalar_type(), " on ",
      grad.device(), " must be ", at::IntArrayRef(shape), " of ", weight.scalar_type(), " on ",
      weight.device());
  const at::Tensor weight_c = weight.contiguous(), positions_c = positions.contiguous(),
                   g = grad.contiguous();
  const at::Tensor grad_weight = at::empty_like(weight_c),
                   grad_positions = at::empty_like(positions_c);
  AT_DISPATCH_FLOATING_TYPES(weight.scalar_type(), "dcls_kernel_backward", [&] {
    with_axes(size.size(), [&](auto axes) {
      launch(
          weight.numel(), ElementBackward<scalar_t, axes>{
                              grad_weight.data_ptr<scalar_t>(), grad_positions.data_ptr<scalar_t>(),
                              g.const_data_ptr<scalar_t>(), weight_c.const_data_ptr<scalar_t>(),
                              positions_c.const_data_ptr<scalar_t>(), window<axes>(weight, size)});
    });
  });
  return {grad_weight, grad_positions};
}

}  // namespace mmlearnconv
