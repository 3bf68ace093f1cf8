// Kernels as functions of an index: CUDA runs them in parallel, tests one after the other.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/macros/Macros.h>

#include <cstdint>

namespace mmlearnconv {

// The dtype in which sums are accumulated: float64 for float64 input, float32 otherwise.
inline at::ScalarType accumulate_dtype(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// Adds to an element that other work items may add to concurrently, in no defined order.
template <typename T>
C10_HOST_DEVICE C10_ALWAYS_INLINE void add_shared(T* to, T value) {
#ifdef __CUDA_ARCH__
  atomicAdd(to, value);
#else
  *to += value;
#endif
}

// Location i of a batch of maps, the columns fastest.
template <typename I>
struct Location {
  I n, y, x;

  C10_HOST_DEVICE static Location of(I i, I height, I width) {
    const I row = i / width, n = row / height;
    return {n, row - n * height, i - row * width};
  }
};

}  // namespace mmlearnconv
