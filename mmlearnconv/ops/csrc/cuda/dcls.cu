// Kernel construction: a block per kernel, whose threads gather cells from the elements, which lie
// in shared memory, always in the same order.

#include "../common/dcls.h"
#include "launch.cuh"

#include <torch/library.h>

#include <algorithm>

namespace mmlearnconv {
namespace {

constexpr int kElements = 256;  // in shared memory at a time
constexpr int kThreads = 256;   // per block, at most

template <typename T, int D>
struct Prepared {
  T weight, part[D];
  int low[D];
};

template <typename T, int D>
__global__ void __launch_bounds__(kThreads)
    build_kernel(T* out, const T* weight, const T* positions, Window<D> w) {
  typedef Prepared<T, D> Held;
  MMLC_SHARED_MEMORY(Held, elements);
  const int64_t kernel = blockIdx.x;
  const int all = w.elements();
  weight += kernel * w.count;
  positions += kernel * w.count;
  const int cells = w.cells(), threads = static_cast<int>(blockDim.x);
  T* const to = out + kernel * cells;
  bool nan = false;
  for (int first = 0; first == 0 || first < w.count; first += kElements) {
    const int held = min(w.count - first, kElements);
    if (first > 0) __syncthreads();
    bool mine = false;
    for (int i = static_cast<int>(threadIdx.x); i < held; i += threads) {
      const Element<T, D> element(w, positions + first + i, all);
      Held& own = elements[i];
      own.weight = weight[first + i];
      mine = mine || element.nan || own.weight != own.weight;
#pragma unroll
      for (int a = 0; a < D; ++a) {
        own.low[a] = element.low[a];
        own.part[a] = element.part[a];
      }
    }
    nan = __syncthreads_or(mine) || nan;
    for (int cell = static_cast<int>(threadIdx.x); cell < cells; cell += threads) {
      int index[D], rest = cell;
#pragma unroll
      for (int a = D - 1; a >= 0; --a) {
        index[a] = rest % w.size[a];
        rest /= w.size[a];
      }
      T sum = first > 0 ? to[cell] : T(0);
      for (int i = 0; i < held; ++i) {
        const Held& element = elements[i];
        T value = element.weight;
        bool near = true;
#pragma unroll
        for (int a = 0; a < D; ++a) {
          const int upper = index[a] - element.low[a];
          near = near && (upper == 0 || upper == 1);
          value *= upper == 1 ? element.part[a] : T(1) - element.part[a];
        }
        if (near) sum += value;
      }
      to[cell] = nan ? static_cast<T>(NAN) : sum;
    }
  }
}

at::Tensor dcls_kernel(
    const at::Tensor& weight, const at::Tensor& positions, at::IntArrayRef size) {
  const c10::cuda::CUDAGuard guard(weight.device());
  const auto build = [&]<typename T, int D>(
                         T* out, const T* of, const T* where, const Window<D>& w) {
    if (w.kernels == 0) return;
    const int threads = std::min(kThreads, (w.cells() + 31) / 32 * 32);
    const auto held = static_cast<size_t>(std::clamp(w.count, 1, kElements));
    launch(
        build_kernel<T, D>, dim3(static_cast<unsigned>(w.kernels)), dim3(threads),
        (held * sizeof(Prepared<T, D>) + 15) / 16 * 16, out, of, where, w);
  };
  return dcls_kernel_with(build, weight, positions, size);
}

}  // namespace

TORCH_LIBRARY_IMPL(mmlearnconv, CUDA, m) {
  m.impl("dcls_kernel", dcls_kernel);
  m.impl("dcls_kernel_backward", OnDevice<&dcls_kernel_backward_with<OnCuda>>::call);
}

}  // namespace mmlearnconv
