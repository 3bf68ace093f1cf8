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
struct Location {
  int64_t n, y, x;

  C10_HOST_DEVICE static Location of(int64_t i, int64_t height, int64_t width) {
    return {i / width / height, i / width % height, i % width};
  }
};

// The output index that reads input `index` through `cell`, or -1 if there is none.
template <typename Axis>
C10_HOST_DEVICE C10_ALWAYS_INLINE int64_t
output_index_of(const Axis& axis, int64_t index, int64_t cell) {
  const int64_t scaled = index - axis.first(cell);
  if (scaled < 0 || scaled % axis.stride != 0) return -1;
  const int64_t place = scaled / axis.stride;
  return place < axis.out_size ? place : -1;
}

}  // namespace mmlearnconv
