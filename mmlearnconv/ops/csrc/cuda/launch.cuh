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

// A warp per index. Its lanes prepare entries, `kernel.entry(i, k)` for each tap k, in shared
// memory; then they share the channels, and each adds all entries to its channels' totals.
template <typename Kernel>
__global__ void each_with_taps(int64_t count, Kernel kernel) {
  typedef typename Kernel::Entry Entry;
  MMLC_SHARED_MEMORY(Entry, memory);
  const int lane = static_cast<int>(threadIdx.x) % kLanesOfWarp;
  const int warp = static_cast<int>(threadIdx.x) / kLanesOfWarp;
  const int64_t taps = kernel.taps(), channels = kernel.channels();
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / kLanesOfWarp);
  Entry* const entries = memory + warp * kLanesOfWarp;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kLanesOfWarp) + warp; i < count;
       i += warps) {
    for (int64_t c = lane; c - lane < channels; c += kLanesOfWarp) {
      typename Kernel::Total total;
      if (c < channels) total = kernel.start(i, c);
      for (int64_t first = 0; first < taps; first += kLanesOfWarp) {
        const int64_t held = min(taps - first, static_cast<int64_t>(kLanesOfWarp));
        // All of them are there from the first channels on, unless there are too many.
        if (c == lane || taps > kLanesOfWarp) {
          __syncwarp();
          if (lane < held) entries[lane] = kernel.entry(i, first + lane);
          __syncwarp();
        }
        if (c >= channels) continue;
        for (int64_t k = 0; k < held; ++k) kernel.add(total, entries[k], i, c);
      }
      if (c < channels) kernel.store(i, c, total);
    }
  }
}

struct OnCuda {
  static constexpr int64_t kThreads = 256, kMaxBlocks = int64_t(1) << 30;

  // A kernel that is a function of an index.
  template <typename Kernel>
  void operator()(int64_t count, const Kernel& kernel) const {
    run(each<Kernel>, count, 1, 0, kernel);
  }

  // A kernel with `sums` and `store`, one warp per index.
  template <typename Kernel>
  void warps(int64_t count, const Kernel& kernel) const {
    run(each_warp<Kernel>, count, kLanesOfWarp, 0, kernel);
  }

  // A kernel with `taps`, `channels`, `entry`, `start`, `add` and `store`, one warp per index.
  template <typename Kernel>
  void with_taps(int64_t count, const Kernel& kernel) const {
    typedef typename Kernel::Entry Entry;
    static_assert(kThreads * sizeof(Entry) <= kSharedBytes && 32 * sizeof(Entry) % 16 == 0);
    run(each_with_taps<Kernel>, count, kLanesOfWarp, sizeof(Entry), kernel);
  }

 private:
  // Blocks of up to kThreads threads, so many per index, with shared memory for each thread.
  template <typename Kernel>
  static void run(
      void (*function)(int64_t, Kernel), int64_t count, int64_t of_index, size_t shared,
      const Kernel& kernel) {
    if (count == 0) return;
    const int64_t warps = (std::min(count, kThreads) * of_index + 31) / 32;
    const int64_t threads = std::min(warps * 32, kThreads), of_block = threads / of_index;
    const int64_t blocks = std::min((count + of_block - 1) / of_block, kMaxBlocks);
    launch(
        function, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)),
        threads * shared, count, kernel);
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
