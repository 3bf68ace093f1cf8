// Kernel construction, a thread some kernels.

#include "../common/dcls.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

namespace mmlearnconv {
namespace {

constexpr int64_t kKernels = 64;  // that a thread takes at least

struct InParallel {
  template <typename Kernel>
  void operator()(int64_t count, const Kernel& kernel) const {
    at::parallel_for(0, count, kKernels, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) kernel(i);
    });
  }
};

at::Tensor dcls_kernel(
    const at::Tensor& weight, const at::Tensor& positions, at::IntArrayRef size) {
  return dcls_kernel_with(InParallel{}, weight, positions, size);
}

std::tuple<at::Tensor, at::Tensor> dcls_kernel_backward(
    const at::Tensor& grad, const at::Tensor& weight, const at::Tensor& positions,
    at::IntArrayRef size) {
  return dcls_kernel_backward_with(InParallel{}, grad, weight, positions, size);
}

}  // namespace

TORCH_LIBRARY_IMPL(mmlearnconv, CPU, m) {
  m.impl("dcls_kernel", dcls_kernel);
  m.impl("dcls_kernel_backward", dcls_kernel_backward);
}

}  // namespace mmlearnconv
