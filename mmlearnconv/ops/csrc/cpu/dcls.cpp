// Kernel construction: out[cell] = sum of the elements' weights times their bilinear factors.

#include "../common/dcls.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <vector>

namespace mmlearnconv {
namespace {

constexpr int64_t kKernels = 64;  // that a thread takes at least

at::Tensor dcls_kernel(
    const at::Tensor& weight, const at::Tensor& positions, at::IntArrayRef size) {
  const Window w = window(weight, positions, size);
  const at::Tensor by = weight.contiguous(), at = positions.contiguous();
  std::vector<int64_t> shape{weight.size(0), weight.size(1)};
  shape.insert(shape.end(), size.begin(), size.end());
  const at::Tensor out = at::zeros(shape, weight.options());
  AT_DISPATCH_FLOATING_TYPES(weight.scalar_type(), "dcls_kernel", [&] {
    at::parallel_for(0, w.kernels, kKernels, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k)
        add_elements(
            out.data_ptr<scalar_t>() + k * w.cells(), by.const_data_ptr<scalar_t>(),
            at.const_data_ptr<scalar_t>(), w, k);
    });
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor> dcls_kernel_backward(
    const at::Tensor& grad, const at::Tensor& weight, const at::Tensor& positions,
    at::IntArrayRef size) {
  const Window w = window(weight, positions, size);
  const at::Tensor by = weight.contiguous(), at = positions.contiguous(), g = grad.contiguous();
  TORCH_CHECK(
      g.numel() == w.kernels * w.cells() && g.scalar_type() == weight.scalar_type(),
      "dcls_kernel_backward: grad ", grad.sizes(), " must be kernels of ", size);
  const at::Tensor grad_weight = at::empty_like(by), grad_positions = at::empty_like(at);
  AT_DISPATCH_FLOATING_TYPES(weight.scalar_type(), "dcls_kernel_backward", [&] {
    at::parallel_for(0, w.kernels, kKernels, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k)
        elements_backward(
            grad_weight.data_ptr<scalar_t>(), grad_positions.data_ptr<scalar_t>(),
            g.const_data_ptr<scalar_t>() + k * w.cells(), by.const_data_ptr<scalar_t>(),
            at.const_data_ptr<scalar_t>(), w, k);
    });
  });
  return {grad_weight, grad_positions};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmlearnconv, CPU, m) {
  m.impl("dcls_kernel", dcls_kernel);
  m.impl("dcls_kernel_backward", dcls_kernel_backward);
}

}  // namespace mmlearnconv
