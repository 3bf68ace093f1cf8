// Launches kernels on the current stream of a tensor's device.
#pragma once

#include "../common/launch.h"

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <cstdint>

namespace mmlearnconv {

// A block's shared memory, of as many bytes as its launch says.
#ifndef MMLC_SHARED_MEMORY
#define MMLC_SHARED_MEMORY(T, name)              \
  extern __shared__ float4 mmlc_shared_memory[]; \
  T* const name = reinterpret_cast<T*>(mmlc_shared_memory)
#endif

// Shared memory that every GPU gives without being asked.
constexpr int64_t kSharedBytes = 48 * 1024;

// A launch that g++ compiles, too: tests run the kernels on the CPU.
template <typename... Parameters, typename... Arguments>
void launch(
    void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
    const Arguments&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = c10::cuda::getCurrentCUDAStream();
  C10_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

template <typename Kernel>
__global__ void each(int64_t count, Kernel kernel) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step)
    kernel(i);
}

constexpr int kLanesOfWarp = 32;

// What the lanes of a warp sum, each over its part.
template <typename T, int count>
struct Sums {
  T value[count] = {};
};

// Runs `kernel.sums(i, lane)` in all lanes of a warp, adds up what they return, always in the same
// order, and hands it to `kernel.store(i, sums)`.
template <typename Kernel>
__global__ void each_warp(int64_t count, Kernel kernel) {
  const int lane = static_cast<int>(threadIdx.x) % kLanesOfWarp;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / kLanesOfWarp);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kLanesOfWarp) +
                   threadIdx.x / kLanesOfWarp;
       i < count; i += warps) {
    auto sums = kernel.sums(i, lane);
#pragma unroll
    for (int by = kLanesOfWarp / 2; by > 0; by /= 2)
#pragma unroll
      for (auto& value : sums.value) value += __shfl_xor_sync(0xffffffffu, value, by);
    if (lane == 0) kernel.store(i, sums);
  }
}

struct OnCuda {
  template <typename Kernel>
  void operator()(int64_t count, const Kernel& kernel) const {
    constexpr int64_t threads = 256, max_blocks = int64_t(1) << 30;
    if (count == 0) return;
    const int64_t blocks = std::min((count + threads - 1) / threads, max_blocks);
    launch(each<Kernel>, dim3(blocks), dim3(threads), 0, count, kernel);
  }

  // A kernel with `sums` and `store`, of which a warp runs each index.
  template <typename Kernel>
  void warps(int64_t count, const Kernel& kernel) const {
    constexpr int64_t threads = 256, of_block = threads / kLanesOfWarp;
    if (count == 0) return;
    const int64_t blocks = std::min((count + of_block - 1) / of_block, int64_t(1) << 30);
    launch(each_warp<Kernel>, dim3(blocks), dim3(threads), 0, count, kernel);
  }
};

// Turns a member function of an operator struct, or a function whose first argument is the
// launcher, into a plain function that runs on the device of its first tensor.
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
