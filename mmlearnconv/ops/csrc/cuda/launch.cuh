// Runs a kernel for every index, on the current stream of a tensor's device.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <cstdint>

namespace mmlearnconv {

template <typename Kernel>
__global__ void each(int64_t count, Kernel kernel) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step)
    kernel(i);
}

struct OnCuda {
  template <typename Kernel>
  void operator()(int64_t count, const Kernel& kernel) const {
    constexpr int64_t threads = 256, max_blocks = int64_t(1) << 30;
    if (count == 0) return;
    const int64_t blocks = std::min((count + threads - 1) / threads, max_blocks);
    each<<<blocks, threads, 0, c10::cuda::getCurrentCUDAStream()>>>(count, kernel);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

// A member of a struct of operators, or a function that takes the launcher first, as a function on
// the device of its first tensor.
template <auto member>
struct OnDevice;

template <
    typename Operators, typename Result, typename... Rest,
    Result (Operators::*member)(const at::Tensor&, Rest...) const>
struct OnDevice<member> {
  static Result call(const at::Tensor& first, Rest... rest) {
    const c10::cuda::CUDAGuard guard(first.device());
    return (Operators{}.*member)(first, rest...);
  }
};

template <
    typename Result, typename... Rest,
    Result (*function)(const OnCuda&, const at::Tensor&, Rest...)>
struct OnDevice<function> {
  static Result call(const at::Tensor& first, Rest... rest) {
    const c10::cuda::CUDAGuard guard(first.device());
    return function(OnCuda{}, first, rest...);
  }
};

}  // namespace mmlearnconv
