// Kernels with one fault each, and their sound forms: what the emulator has to notice, and what
// not.
//   planted NAME      prints sums of what the kernel wrote
#include "emulator.h"

namespace {

constexpr int kThreads = 64;

// Each thread takes its neighbour's number out of shared memory, turned around.
template <bool synchronise>
__global__ void turn_around(float* out, int) {
  MMLC_SHARED_MEMORY(float, line);
  line[threadIdx.x] = static_cast<float>(threadIdx.x + 1);
  if (synchronise) __syncthreads();
  out[threadIdx.x] = line[kThreads - 1 - threadIdx.x];
}

// All add to one cell: each reads it, and writes it after the others have read it too.
template <bool atomic>
__global__ void add_up(float* out, int) {
  if (atomic) {
    atomicAdd(out, static_cast<float>(threadIdx.x));
    return;
  }
  const float before = out[0];
  __syncthreads();
  out[0] = before + static_cast<float>(threadIdx.x);
}

// The sum of a warp without shared memory.
__global__ void sum_of_warp(float* out, int) {
  float sum = static_cast<float>(threadIdx.x);
  for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
  const unsigned even = __ballot_sync(0xffffffffu, threadIdx.x % 2 == 0);
  if (even != 0x55555555u || !__any_sync(0xffffffffu, threadIdx.x % 32 == 7)) sum = NAN;
  out[threadIdx.x] = sum;
}

template <int by>
__global__ void beyond_shared(float* out, int size) {
  MMLC_SHARED_MEMORY(float, line);
  line[threadIdx.x] = 1;
  __syncthreads();
  if (threadIdx.x == 0) out[0] = line[size - 1 + by];
}

template <int by>
__global__ void beyond_global(float* out, int) {
  out[threadIdx.x + by] = 1;
}

template <int by>
__global__ void as_vectors(float* out, int) {
  if (threadIdx.x == 0) *reinterpret_cast<float4*>(out + by) = make_float4(1, 2, 3, 4);
}

template <bool all>
__global__ void some_at_a_barrier(float* out, int) {
  if (all || threadIdx.x < 7) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}

// Lanes from 5 on have ended when the first one asks for them.
__global__ void warp_of_the_dead(float* out, int) {
  if (threadIdx.x >= 5) return;
  out[threadIdx.x] = __shfl_down_sync(0xffffffffu, 1.0f, 1);
}

template <bool wait>
__global__ void late_copy(float* out, int) {
  MMLC_SHARED_MEMORY(float, line);
  out[threadIdx.x] = static_cast<float>(threadIdx.x);
  __pipeline_memcpy_async(line + threadIdx.x, out + threadIdx.x, sizeof(float));
  __pipeline_commit();
  if (wait) __pipeline_wait_prior(0);
  __syncthreads();
  out[threadIdx.x] = line[kThreads - 1 - threadIdx.x];
}

__global__ void not_written(float* out, int) {
  MMLC_SHARED_MEMORY(float, line);
  out[threadIdx.x] = line[threadIdx.x];
}

}  // namespace

int main(int, char** arguments) {
  const std::string name = arguments[1];
  const std::vector<std::pair<std::string, void (*)(float*, int)>> kernels{
      {"synchronised", turn_around<true>},
      {"unsynchronised", turn_around<false>},
      {"atomic", add_up<true>},
      {"race", add_up<false>},
      {"warp", sum_of_warp},
      {"inside shared", beyond_shared<0>},
      {"outside shared", beyond_shared<1>},
      {"inside global", beyond_global<0>},
      {"outside global", beyond_global<1>},
      {"aligned", as_vectors<4>},
      {"misaligned", as_vectors<1>},
      {"one barrier", some_at_a_barrier<true>},
      {"two barriers", some_at_a_barrier<false>},
      {"ended lanes", warp_of_the_dead},
      {"awaited copy", late_copy<true>},
      {"copy not awaited", late_copy<false>},
      {"not written", not_written},
  };
  for (const auto& [known, kernel] : kernels) {
    if (known != name) continue;
    std::vector<float> out(kThreads, 0.0f);
    float* const at = static_cast<float*>(std::aligned_alloc(16, kThreads * sizeof(float)));
    std::copy(out.begin(), out.end(), at);
    const cudaLaunchConfig_t config{1, kThreads, kThreads * sizeof(float), nullptr};
    cudaLaunchKernelEx(&config, kernel, at, kThreads);
    double sum = 0, weighted = 0;
    for (int i = 0; i < kThreads; ++i) {
      sum += at[i];
      weighted += at[i] * i;
    }
    std::printf("%.9g %.9g\n", sum, weighted);
    std::free(at);
    return 0;
  }
  return 2;
}
