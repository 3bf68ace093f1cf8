#pragma once

#include <ATen/core/Tensor.h>
#include <torch/library.h>

// The CUDA kernels are registered in the CPU's place.
#undef TORCH_LIBRARY_IMPL
#define TORCH_LIBRARY_IMPL(library, key, m) _TORCH_LIBRARY_IMPL(library, CPU, m, C10_UID)

namespace c10::cuda {
struct CUDAGuard {
  explicit CUDAGuard(const at::Device&) {}
};
}  // namespace c10::cuda
