// Launches kernels on the current stream of a tensor's device.
#pragma once

#include "../common/launch.h"

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <cstdint>
#include <limits>

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

// A kernel is a function of an index.
template <typename Kernel>
__global__ void each(int64_t count, Kernel kernel) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) kernel(i);
}

constexpr int kLanesOfWarp = 32;

// A warp that runs a kernel, and its part of the block's shared memory.
struct Warp {
  int lane;
  unsigned char* memory;

  __device__ static void sync() {
    __syncwarp();
  }
  // The sum over the lanes, in all of them, always added up in the same order.
  template <typename T>
  __device__ static T sum(T value) {
#pragma unroll
    for (int by = kLanesOfWarp / 2; by > 0; by /= 2)
      value += __shfl_xor_sync(0xffffffffu, value, by);
    return value;
  }
  // The lanes prepare entries for taps first..first+31, `prepare(tap)`, in shared memory.
  template <typename Entry, typename Prepare>
  __device__ const Entry* prepare(int first, int taps, const Prepare& entry) const {
    Entry* const entries = reinterpret_cast<Entry*>(memory);
    sync();
    if (first + lane < taps) entries[lane] = entry(first + lane);
    sync();
    return entries;
  }
  // Calls `use(entry, tap)` for the entries of all taps. They are prepared `anew`, or are there.
  template <typename Entry, typename Prepare, typename Use>
  __device__ void over_taps(int taps, bool anew, const Prepare& entry, const Use& use) const {
    const Entry* entries = reinterpret_cast<const Entry*>(memory);
    for (int first = 0; first < taps; first += kLanesOfWarp) {
      if (anew || taps > kLanesOfWarp) entries = prepare<Entry>(first, taps, entry);
      const int held = min(taps - first, kLanesOfWarp);
      for (int k = 0; k < held; ++k) {
        const Entry own = entries[k];
        use(own, first + k);
      }
    }
  }
};

// A kernel is a function of an index and of the warp that runs it.
template <typename Kernel>
__global__ void each_warp(int count, int bytes, Kernel kernel) {
  MMLC_SHARED_MEMORY(unsigned char, memory);
  const int own = static_cast<int>(threadIdx.x) / kLanesOfWarp;
  const int of_block = static_cast<int>(blockDim.x) / kLanesOfWarp;
  const Warp warp{static_cast<int>(threadIdx.x) % kLanesOfWarp, memory + own * bytes};
  const int i = static_cast<int>(blockIdx.x) * of_block + own;
  if (i < count) kernel(i, warp);
}

struct OnCuda {
  // A thread per index.
  template <typename Kernel>
  void operator()(int64_t count, const Kernel& kernel) const {
    constexpr int64_t threads = 256;
    if (count == 0) return;
    launch(
        each<Kernel>, dim3(static_cast<unsigned>((count + threads - 1) / threads)), dim3(threads),
        0, count, kernel);
  }

  // A warp per index, with so many bytes of shared memory each.
  template <typename Kernel>
  static void warps(int64_t count, int64_t bytes, const Kernel& kernel) {
    if (count == 0) return;
    bytes = (bytes + 15) / 16 * 16;
    const int64_t most = std::min<int64_t>(8, kSharedBytes / std::max<int64_t>(bytes, 1));
    TORCH_CHECK(
        most > 0 && count <= std::numeric_limits<int32_t>::max(), count, " work items with ", bytes,
        " bytes of shared memory each: at most 2^31 - 1 and ", kSharedBytes);
    const int64_t warps = std::min(count, most);
    launch(
        each_warp<Kernel>, dim3(static_cast<unsigned>((count + warps - 1) / warps)),
        dim3(static_cast<unsigned>(warps * kLanesOfWarp)), warps * bytes, static_cast<int>(count),
        static_cast<int>(bytes), kernel);
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
