// Kernel construction; each thread builds some of the kernels.

#include "../common/dcls.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>

namespace mmlearnconv {
namespace {

constexpr int64_t kGrainSize = 64;  // kernels per thread, at least

struct InParallel {
  template <typename Kernel>
  void operator()(int64_t count, const Kernel& kernel) const {
    at::parallel_for(0, count, kGrainSize, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) kernel(i);
    });
  }
};

// Adds the elements of one kernel to its window, corner by corner.
template <typename T, int D>
void add_elements(T* out, const T* weight, const T* positions, const Window<D>& w, int64_t kernel) {
  std::fill(out, out + w.cells(), T(0));
  for (int64_t e = kernel * w.count; e < (kernel + 1) * w.count; ++e) {
    const Element<T, D> element(w, positions + e, w.elements());
    const T own = weight[e];
    if (element.nan || own != own) std::fill(out, out + w.cells(), static_cast<T>(NAN));
    for (int corner = 0; corner < 1 << D; ++corner) {
      T factors[D];
      const int cell = element.cell(w, corner, factors);
      if (cell < 0) continue;
      T value = own;
      for (int a = 0; a < D; ++a) value *= factors[a];
      out[cell] += value;
    }
  }
}

at::Tensor dcls_kernel(
    const at::Tensor& weight, const at::Tensor& positions, at::IntArrayRef size) {
  const auto build = [](auto* out, const auto* of, const auto* where, const auto& w) {
    InParallel{}(w.kernels, [&](int64_t kernel) {
      add_elements(out + kernel * w.cells(), of, where, w, kernel);
    });
  };
  return dcls_kernel_with(build, weight, positions, size);
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
