// The bilinear kernel of a dilated convolution with learnable spacings, one kernel a call.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/macros/Macros.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <cstdint>
#include <tuple>
#include <vector>

namespace mmlearnconv {

struct Window {
  int64_t dims, count, kernels;
  int64_t size[3];

  C10_HOST_DEVICE int64_t cells() const {
    int64_t cells = 1;
    for (int64_t a = 0; a < dims; ++a) cells *= size[a];
    return cells;
  }
};

// An element's lowest cell and its parts beyond it. Positions are (dims, kernels, count); one that
// is not a number makes its kernel so, as a weight does.
template <typename T>
struct Element {
  int64_t low[3];
  T part[3];
  bool nan = false;

  C10_HOST_DEVICE Element(const Window& w, const T* positions, int64_t kernel, int64_t e) {
    for (int64_t a = 0; a < w.dims; ++a) {
      const T q = positions[(a * w.kernels + kernel) * w.count + e] + static_cast<T>(w.size[a] / 2);
      nan = nan || q != q;
      // Far out is outside: no cell that a corner could reach.
      const bool near = q > T(-2) && q < static_cast<T>(w.size[a] + 1);
      low[a] = near ? static_cast<int64_t>(q + T(2)) - 2 : -2;
      part[a] = q - static_cast<T>(low[a]);
    }
  }

  // The corner's cell, -1 outside the window, and its factor on each axis.
  C10_HOST_DEVICE int64_t cell(const Window& w, int64_t corner, T* factors) const {
    int64_t cell = 0;
    bool inside = true;
    for (int64_t a = 0; a < w.dims; ++a) {
      const int64_t upper = corner >> a & 1, index = low[a] + upper;
      inside = inside && index >= 0 && index < w.size[a];
      cell = cell * w.size[a] + index;
      factors[a] = upper ? part[a] : T(1) - part[a];
    }
    return inside ? cell : -1;
  }
};

// `out` is the kernel's window, zeros before.
template <typename T>
C10_HOST_DEVICE inline void add_elements(
    T* out, const T* weight, const T* positions, const Window& w, int64_t kernel) {
  for (int64_t e = 0; e < w.count; ++e) {
    const Element<T> element(w, positions, kernel, e);
    const T by = weight[kernel * w.count + e];
    if (element.nan || by != by)
      for (int64_t cell = 0; cell < w.cells(); ++cell) out[cell] = static_cast<T>(NAN);
    for (int64_t corner = 0; corner < 1 << w.dims; ++corner) {
      T factors[3];
      const int64_t cell = element.cell(w, corner, factors);
      if (cell < 0) continue;
      T value = by;
      for (int64_t a = 0; a < w.dims; ++a) value *= factors[a];
      out[cell] += value;
    }
  }
}

template <typename T>
C10_HOST_DEVICE inline void elements_backward(
    T* grad_weight, T* grad_positions, const T* grad, const T* weight, const T* positions,
    const Window& w, int64_t kernel) {
  for (int64_t e = 0; e < w.count; ++e) {
    const Element<T> element(w, positions, kernel, e);
    const T start = element.nan ? static_cast<T>(NAN) : T(0);
    T of_weight = start, slopes[3] = {start, start, start};
    for (int64_t corner = 0; corner < 1 << w.dims; ++corner) {
      T factors[3];
      const int64_t cell = element.cell(w, corner, factors);
      if (cell < 0) continue;
      T share = 1;
      for (int64_t a = 0; a < w.dims; ++a) share *= factors[a];
      of_weight += share * grad[cell];
      for (int64_t a = 0; a < w.dims; ++a) {
        T slope = corner >> a & 1 ? T(1) : T(-1);
        for (int64_t other = 0; other < w.dims; ++other)
          if (other != a) slope *= factors[other];
        slopes[a] += slope * grad[cell];
      }
    }
    const int64_t own = kernel * w.count + e;
    grad_weight[own] = of_weight;
    for (int64_t a = 0; a < w.dims; ++a)
      grad_positions[a * w.kernels * w.count + own] = slopes[a] * weight[own];
  }
}

template <typename T>
struct AddElements {
  T* out;
  const T *weight, *positions;
  Window w;

  C10_HOST_DEVICE void operator()(int64_t kernel) const {
    add_elements(out + kernel * w.cells(), weight, positions, w, kernel);
  }
};

template <typename T>
struct ElementsBackward {
  T *grad_weight, *grad_positions;
  const T *grad, *weight, *positions;
  Window w;

  C10_HOST_DEVICE void operator()(int64_t kernel) const {
    elements_backward(
        grad_weight, grad_positions, grad + kernel * w.cells(), weight, positions, w, kernel);
  }
};

inline Window window(const at::Tensor& weight, const at::Tensor& positions, at::IntArrayRef size) {
  TORCH_CHECK(
      weight.dim() == 3 && positions.dim() == 4 && positions.sizes().slice(1) == weight.sizes() &&
          positions.size(0) == static_cast<int64_t>(size.size()) && !size.empty() &&
          size.size() <= 3 && positions.scalar_type() == weight.scalar_type(),
      "dcls_kernel: positions ", positions.sizes(), " of ", positions.scalar_type(), " must be (",
      size.size(), ", out, in / groups, count), at most 3 axes, for weight ", weight.sizes(),
      " of ", weight.scalar_type());
  Window w{static_cast<int64_t>(size.size()), weight.size(2), weight.size(0) * weight.size(1), {}};
  for (size_t a = 0; a < size.size(); ++a) w.size[a] = size[a];
  return w;
}

template <typename Launch>
at::Tensor dcls_kernel_with(
    const Launch& launch, const at::Tensor& weight, const at::Tensor& positions,
    at::IntArrayRef size) {
  const Window w = window(weight, positions, size);
  const at::Tensor by = weight.contiguous(), positions_c = positions.contiguous();
  std::vector<int64_t> shape{weight.size(0), weight.size(1)};
  shape.insert(shape.end(), size.begin(), size.end());
  const at::Tensor out = at::zeros(shape, weight.options());
  AT_DISPATCH_FLOATING_TYPES(weight.scalar_type(), "dcls_kernel", [&] {
    launch(
        w.kernels, AddElements<scalar_t>{
                       out.data_ptr<scalar_t>(), by.const_data_ptr<scalar_t>(),
                       positions_c.const_data_ptr<scalar_t>(), w});
  });
  return out;
}

template <typename Launch>
std::tuple<at::Tensor, at::Tensor> dcls_kernel_backward_with(
    const Launch& launch, const at::Tensor& grad, const at::Tensor& weight,
    const at::Tensor& positions, at::IntArrayRef size) {
  const Window w = window(weight, positions, size);
  const at::Tensor by = weight.contiguous(), positions_c = positions.contiguous(),
                   g = grad.contiguous();
  TORCH_CHECK(
      g.numel() == w.kernels * w.cells() && g.scalar_type() == weight.scalar_type(),
      "dcls_kernel_backward: grad ", grad.sizes(), " must be kernels of ", size);
  const at::Tensor grad_weight = at::empty_like(by), grad_positions = at::empty_like(positions_c);
  AT_DISPATCH_FLOATING_TYPES(weight.scalar_type(), "dcls_kernel_backward", [&] {
    launch(
        w.kernels, ElementsBackward<scalar_t>{
                       grad_weight.data_ptr<scalar_t>(), grad_positions.data_ptr<scalar_t>(),
                       g.const_data_ptr<scalar_t>(), by.const_data_ptr<scalar_t>(),
                       positions_c.const_data_ptr<scalar_t>(), w});
  });
  return {grad_weight, grad_positions};
}

}  // namespace mmlearnconv
