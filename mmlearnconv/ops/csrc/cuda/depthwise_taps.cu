// Depthwise convolution by lists of taps.
//
// A block computes some outputs of a channel. What its taps read is copied into shared memory, with
// zeros around the map, so that a tap is one read and one multiply-add per output; the taps lie
// there, too, as offsets. Where that is too much for shared memory, the map is read itself.

#include "../common/depthwise_taps.h"
#include "launch.cuh"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <tuple>

namespace mmlearnconv {
namespace {

constexpr int kThreads = 256;          // of a block at most
constexpr int kEach = 4;               // outputs that a thread computes side by side
constexpr int kTableTaps = 256;        // that shared memory holds at a time
constexpr int kTileBytes = 40 * 1024;  // of what they read
constexpr int kValues = 32;            // whose gradients a block sums

template <typename T>
struct alignas(16) Tap {
  int y, x;  // what it reads, relative to the output's place; in a tile x is the offset
  T value;
};

// One axis: the map that is read, and the one that is written. The gradient of the input is written
// in as many parts as the stride is long, each of the rows or columns of one residue; then a part's
// next output reads the next element.
template <bool FORWARD>
struct Line {
  int read, written, stride, padding, dilation, residue;
  int farthest;  // cell whose place can be computed in 32 bits

  explicit Line(const AxisOf<int32_t>& axis)
      : read(FORWARD ? axis.size : axis.out_size),
        written(FORWARD ? axis.out_size : axis.size),
        stride(axis.stride),
        padding(axis.padding),
        dilation(axis.dilation),
        residue(0),
        farthest((1 << 30) / axis.dilation) {}
  __device__ int count() const {
    return FORWARD ? written : (written - residue + stride - 1) / stride;
  }
  __device__ int step() const {
    return FORWARD ? stride : 1;
  }
  __device__ int index(int i) const {
    return FORWARD ? i : i * stride + residue;
  }
  // Whether any output reads through the cell; then output 0 reads element `shift`.
  __device__ bool reaches(int64_t cell, int* shift) const {
    if (cell < -farthest || cell > farthest) return false;
    const int place = static_cast<int>(cell) * dilation;
    if (FORWARD) {
      *shift = place - padding;
    } else {
      const int first = residue + padding - place;
      *shift = (first - (first < 0 ? stride - 1 : 0)) / stride;
      if (*shift * stride != first) return false;
    }
    return *shift < read && *shift + (count() - 1) * step() >= 0;
  }
};

__device__ int thread() {
  return static_cast<int>(threadIdx.x);
}
__device__ int threads() {
  return static_cast<int>(blockDim.x);
}
// Outputs that a block computes at a time.
__device__ int outputs() {
  return threads() * kEach;
}

// The least and greatest shifts of some taps, as far as they are read.
struct Bounds {
  int top, bottom, left, right;

  // By all threads of a block, in shared memory.
  template <bool FORWARD>
  __device__ void find(
      const int64_t* cells, int count, const Line<FORWARD>& y, const Line<FORWARD>& x) {
    constexpr int far = 1 << 30;
    if (thread() == 0) *this = {far, -far, far, -far};
    __syncthreads();
    for (int t = thread(); t < count; t += threads()) {
      int by_y, by_x;
      if (!y.reaches(cells[2 * t], &by_y) || !x.reaches(cells[2 * t + 1], &by_x)) continue;
      atomicMin(&top, by_y);
      atomicMax(&bottom, by_y);
      atomicMin(&left, by_x);
      atomicMax(&right, by_x);
    }
    __syncthreads();
  }
};

// What outputs first..last-1 of a channel read, the columns fastest.
template <typename sum_t, bool FORWARD>
struct Area {
  Line<FORWARD> y, x;
  Bounds bounds;
  int width, columns;      // of the outputs, and of what they read
  bool tiled;              // whether shared memory holds what outputs() of them read
  int first, last, above;  // `above`: the first one's row

  __device__ Area(const Line<FORWARD>& y, const Line<FORWARD>& x, const Bounds& bounds)
      : y(y), x(x), bounds(bounds), width(x.count()) {
    columns = (width - 1) * x.step() + bounds.right - bounds.left + 1;
    const int more = min(y.count() - 1, (outputs() + width - 2) / width);
    const int64_t rows = more * y.step() + bounds.bottom - bounds.top + 1;
    tiled = bounds.top <= bounds.bottom &&
            rows * columns * static_cast<int64_t>(sizeof(sum_t)) <= kTileBytes;
  }
  __device__ void choose(int chunk) {
    first = chunk * outputs();
    last = min(first + outputs(), y.count() * width);
    above = first / width;
  }
  // Copies what they read, with zeros around the map.
  template <typename scalar_t>
  __device__ void copy(sum_t* tile, const scalar_t* map) const {
    const int lane = thread() % kLanesOfWarp;
    const int rows = ((last - 1) / width - above) * y.step() + bounds.bottom - bounds.top + 1;
    for (int r = thread() / kLanesOfWarp; r < rows; r += threads() / kLanesOfWarp) {
      const int row = above * y.step() + bounds.top + r;
      const bool inside = row >= 0 && row < y.read;
      const scalar_t* const line = map + static_cast<int64_t>(inside ? row : 0) * x.read;
      for (int c = lane; c < columns; c += kLanesOfWarp) {
        const int column = bounds.left + c;
        const bool holds = inside && column >= 0 && column < x.read;
        tile[r * columns + c] = holds ? static_cast<sum_t>(line[column]) : sum_t(0);
      }
    }
  }
  // A tap, or an output's place, as `at` takes it: in a tile x alone counts.
  __device__ void place(int* of_y, int* of_x) const {
    if (tiled) *of_x += *of_y * columns;
  }
  __device__ void place_of(int output, int* of_y, int* of_x) const {
    const int row = output / width;
    *of_y = (tiled ? row - above : row) * y.step();
    *of_x = (output - row * width) * x.step();
    place(of_y, of_x);
  }
  __device__ Tap<sum_t> tap(const int64_t* cell, sum_t value, bool* reads) const {
    Tap<sum_t> tap{0, 0, value};
    const bool by_y = y.reaches(cell[0], &tap.y), by_x = x.reaches(cell[1], &tap.x);
    *reads = by_y && by_x;
    if (tiled) {
      tap.y = *reads ? tap.y - bounds.top : 0;
      tap.x = *reads ? tap.x - bounds.left : 0;
    }
    place(&tap.y, &tap.x);
    return tap;
  }
  template <typename scalar_t>
  __device__ sum_t at(const scalar_t* map, int row, int column) const {
    const bool inside = row >= 0 && row < y.read && column >= 0 && column < x.read;
    return inside ? static_cast<sum_t>(map[static_cast<int64_t>(row) * x.read + column]) : sum_t(0);
  }
};

template <typename scalar_t, typename sum_t, bool FORWARD>
struct Task {
  const scalar_t* from;
  scalar_t* to;
  const sum_t *values, *bias;
  const int64_t* cells;
  int channels, multiplier, taps, threads, chunks;
  Line<FORWARD> y, x;
};

constexpr int64_t kHead = kTableTaps * sizeof(Tap<double>) + 2 * sizeof(Bounds);
constexpr int64_t kShared = kHead + kTileBytes;
static_assert(kShared <= kSharedBytes && kTableTaps * sizeof(Tap<float>) <= kHead);

// A block's shared memory.
template <typename sum_t>
struct Shared {
  Tap<sum_t>* table;
  Bounds* bounds;
  int* listed;
  sum_t* tile;

  __device__ explicit Shared(unsigned char* memory)
      : table(reinterpret_cast<Tap<sum_t>*>(memory)),
        bounds(reinterpret_cast<Bounds*>(table + kTableTaps)),
        listed(reinterpret_cast<int*>(bounds + 1)),
        tile(reinterpret_cast<sum_t*>(memory + kHead)) {}
};

// The output, or the gradient of the input: a block per image, channel, part and chunk of outputs.
template <typename scalar_t, typename sum_t, bool FORWARD>
__global__ void __launch_bounds__(kThreads, 2) sum_taps(Task<scalar_t, sum_t, FORWARD> task) {
  MMLC_SHARED_MEMORY(unsigned char, memory);
  const Shared<sum_t> shared(memory);
  int index = static_cast<int>(blockIdx.x);
  const int chunk = index % task.chunks;
  index /= task.chunks;
  if constexpr (!FORWARD) {
    const int parts = task.y.stride * task.x.stride, part = index % parts;
    index /= parts;
    task.y.residue = part / task.x.stride;
    task.x.residue = part % task.x.stride;
  }
  if (chunk * outputs() >= task.y.count() * task.x.count()) return;
  const int first_list = index % task.channels * task.multiplier;
  const int64_t* const cells = task.cells + int64_t(2) * first_list * task.taps;
  shared.bounds->find(cells, task.multiplier * task.taps, task.y, task.x);
  Area<sum_t, FORWARD> area(task.y, task.x, *shared.bounds);
  area.choose(chunk);
  int own_y[kEach], own_x[kEach];
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
    const int output = area.first + r * threads() + thread();
    area.place_of(min(output, area.last - 1), own_y + r, own_x + r);
  }
  const int64_t pixels = static_cast<int64_t>(task.y.read) * task.x.read;
  const int64_t written = static_cast<int64_t>(task.y.written) * task.x.written;
  sum_t totals[kEach] = {};
  for (int m = 0; m < task.multiplier; ++m) {
    const scalar_t* const map =
        task.from + (FORWARD ? index : static_cast<int64_t>(index) * task.multiplier + m) * pixels;
    const int list = first_list + m;
    if (area.tiled && (m == 0 || !FORWARD)) {
      __syncthreads();
      area.copy(shared.tile, map);
    }
    if constexpr (FORWARD) {
      for (auto& total : totals) total = task.bias ? task.bias[list] : sum_t(0);
    }
    for (int first = 0; first < task.taps; first += kTableTaps) {
      __syncthreads();
      // One warp lists the taps that are read, in their order.
      if (thread() < kLanesOfWarp) {
        const int lane = thread(), held = min(task.taps - first, kTableTaps);
        int listed = 0;
        for (int begin = 0; begin < held; begin += kLanesOfWarp) {
          Tap<sum_t> tap{};
          bool reads = false;
          if (begin + lane < held) {
            const int64_t t = static_cast<int64_t>(list) * task.taps + first + begin + lane;
            tap = area.tap(task.cells + 2 * t, task.values[t], &reads);
            // A NaN reaches all outputs, wherever it reads.
            reads = reads || (FORWARD && tap.value != tap.value);
          }
          const unsigned all = __ballot_sync(0xffffffffu, reads);
          if (reads) shared.table[listed + __popc(all & ((1u << lane) - 1))] = tap;
          listed += __popc(all);
        }
        if (lane == 0) *shared.listed = listed;
      }
      __syncthreads();
      const int listed = *shared.listed;
      if (area.tiled) {
        for (int t = 0; t < listed; ++t) {
          const Tap<sum_t> tap = shared.table[t];
#pragma unroll
          for (int r = 0; r < kEach; ++r) totals[r] += tap.value * shared.tile[own_x[r] + tap.x];
        }
      } else {
        for (int t = 0; t < listed; ++t) {
          const Tap<sum_t> tap = shared.table[t];
#pragma unroll
          for (int r = 0; r < kEach; ++r)
            totals[r] += tap.value * area.at(map, own_y[r] + tap.y, own_x[r] + tap.x);
        }
      }
    }
    if (!FORWARD && m + 1 < task.multiplier) continue;
    scalar_t* const to =
        task.to + (FORWARD ? static_cast<int64_t>(index) * task.multiplier + m : index) * written;
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
      const int output = area.first + r * threads() + thread();
      if (output >= area.last) continue;
      const int row = output / area.width, column = output - row * area.width;
      to[static_cast<int64_t>(area.y.index(row)) * task.x.written + area.x.index(column)] =
          static_cast<scalar_t>(totals[r]);
    }
  }
}

// Gradients of the values: a block per list, kValues of its taps and piece of the batch.
template <typename scalar_t, typename sum_t>
__global__ void __launch_bounds__(kThreads, 1) sum_values(
    Task<scalar_t, sum_t, true> task, const scalar_t* grad, sum_t* parts, int images, int pieces) {
  MMLC_SHARED_MEMORY(unsigned char, memory);
  const Shared<sum_t> shared(memory);
  const int groups = (task.taps + kValues - 1) / kValues, lists = task.channels * task.multiplier;
  int index = static_cast<int>(blockIdx.x);
  const int begin = index % groups * kValues;
  index /= groups;
  const int list = index % lists, piece = index / lists;
  const int held = min(task.taps - begin, kValues);
  const int64_t* const cells = task.cells + 2 * (static_cast<int64_t>(list) * task.taps + begin);
  shared.bounds->find(cells, held, task.y, task.x);
  Area<sum_t, true> area(task.y, task.x, *shared.bounds);
  if (thread() < kValues) {
    bool reads = false;
    Tap<sum_t> tap{};
    if (thread() < held) tap = area.tap(cells + 2 * thread(), sum_t(0), &reads);
    tap.value = reads ? sum_t(1) : sum_t(0);
    shared.table[thread()] = tap;
  }
  __syncthreads();
  int offset[kValues];
  sum_t totals[kValues] = {};
#pragma unroll
  for (int t = 0; t < kValues; ++t) offset[t] = shared.table[t].x;
  const int64_t pixels = static_cast<int64_t>(task.y.read) * task.x.read;
  for (int q = piece; q < images * task.chunks; q += pieces) {
    const int n = q / task.chunks;
    area.choose(q - n * task.chunks);
    const scalar_t* const map =
        task.from + (static_cast<int64_t>(n) * task.channels + list / task.multiplier) * pixels;
    const scalar_t* const passed =
        grad + (static_cast<int64_t>(n) * lists + list) * task.y.written * task.x.written;
    if (area.tiled) {
      __syncthreads();
      area.copy(shared.tile, map);
      __syncthreads();
    }
    // All kValues of them, as many as there may be: what is too much is not stored.
    for (int output = area.first + thread(); output < area.last; output += threads()) {
      int own_y, own_x;
      area.place_of(output, &own_y, &own_x);
      const sum_t own = static_cast<sum_t>(passed[output]);
      if (area.tiled) {
#pragma unroll
        for (int t = 0; t < kValues; ++t) totals[t] += own * shared.tile[own_x + offset[t]];
      } else {
#pragma unroll
        for (int t = 0; t < kValues; ++t)
          if (t < held)
            totals[t] += own * area.at(map, own_y + shared.table[t].y, own_x + offset[t]);
      }
    }
  }
  // Each warp's sums, then those of the block, always in the same order.
  const int warps = threads() / kLanesOfWarp;
  const int lane = thread() % kLanesOfWarp;
  __syncthreads();
#pragma unroll
  for (int t = 0; t < kValues; ++t) {
    const sum_t total = Warp::sum(totals[t]);
    if (lane == 0) shared.tile[t * warps + thread() / kLanesOfWarp] = total;
  }
  __syncthreads();
  if (thread() >= held) return;
  sum_t total = 0;
  for (int w = 0; w < warps; ++w) total += shared.tile[thread() * warps + w];
  parts[(static_cast<int64_t>(piece) * lists + list) * task.taps + begin + thread()] =
      shared.table[thread()].value == sum_t(0) ? sum_t(0) : total;
}

// Values, cells and bias as the kernels read them.
struct Lists {
  at::Tensor values, cells, bias;

  Lists(
      const at::Tensor& input, const at::Tensor& values, const at::Tensor& cells,
      const std::optional<at::Tensor>& bias)
      : values(values.to(accumulate_dtype(input)).contiguous()),
        cells(cells.contiguous()),
        bias(bias ? bias->to(accumulate_dtype(input)).contiguous() : at::Tensor()) {}
};

template <typename scalar_t, typename sum_t, bool FORWARD>
Task<scalar_t, sum_t, FORWARD> task(
    const at::Tensor& from, const at::Tensor& to, const Lists& lists, const TapSizes& n,
    const Geometry& g) {
  const auto narrow = in_32_bits(g);
  const auto& axis = FORWARD ? std::array{narrow.y.out_size, narrow.x.out_size}
                             : std::array{
                                   (narrow.y.size + narrow.y.stride - 1) / narrow.y.stride,
                                   (narrow.x.size + narrow.x.stride - 1) / narrow.x.stride};
  const int outputs = in_32_bits(static_cast<int64_t>(axis[0]) * axis[1]);
  const int warps = std::min((outputs - 1) / (kEach * kLanesOfWarp) + 1, kThreads / kLanesOfWarp);
  const int threads = warps * kLanesOfWarp;
  in_32_bits(n.channels * n.multiplier * n.taps);
  return {
      from.const_data_ptr<scalar_t>(),
      to.defined() ? to.data_ptr<scalar_t>() : nullptr,
      lists.values.const_data_ptr<sum_t>(),
      lists.bias.defined() ? lists.bias.const_data_ptr<sum_t>() : nullptr,
      lists.cells.const_data_ptr<int64_t>(),
      in_32_bits(n.channels),
      in_32_bits(n.multiplier),
      in_32_bits(n.taps),
      threads,
      (outputs - 1) / (threads * kEach) + 1,
      Line<FORWARD>(narrow.y),
      Line<FORWARD>(narrow.x)};
}

dim3 blocks(int64_t count) {
  return dim3(static_cast<unsigned>(in_32_bits(count)));
}

at::Tensor depthwise_taps(
    const at::Tensor& input, const at::Tensor& values, const at::Tensor& cells,
    const std::optional<at::Tensor>& bias, at::IntArrayRef output_size, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation) {
  const c10::cuda::CUDAGuard guard(input.device());
  const TapSizes n = check_taps(input, values, cells);
  check_bias(bias, n);
  const Geometry g = geometry(input.sizes().slice(2), output_size, stride, padding, dilation);
  const at::Tensor x = input.contiguous();
  const Lists lists(input, values, cells, bias);
  const at::Tensor out =
      at::empty({n.batch, n.channels * n.multiplier, output_size[0], output_size[1]}, x.options());
  if (out.numel() == 0) return out;
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, input.scalar_type(), "depthwise_taps", [&] {
        using sum_t = at::opmath_type<scalar_t>;
        const auto own = task<scalar_t, sum_t, true>(x, out, lists, n, g);
        launch(
            sum_taps<scalar_t, sum_t, true>, blocks(n.batch * n.channels * own.chunks),
            dim3(own.threads), kShared, own);
      });
  return out.contiguous(format_of(input));
}

std::tuple<at::Tensor, at::Tensor> depthwise_taps_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& values,
    const at::Tensor& cells, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation, bool needs_input, bool needs_values) {
  const c10::cuda::CUDAGuard guard(grad.device());
  const TapSizes n = check_taps(input, values, cells);
  check_grad(grad, input, n);
  const Geometry g =
      geometry(input.sizes().slice(2), grad.sizes().slice(2), stride, padding, dilation);
  const Lists lists(input, values, cells, std::nullopt);
  const at::Tensor x = input.contiguous(), dy = grad.contiguous();
  const bool empty = x.numel() == 0 || dy.numel() == 0;
  at::Tensor grad_input = at::empty({0}, x.options());
  at::Tensor grad_values = at::empty({0}, lists.values.options());
  if (needs_input) grad_input = empty ? at::zeros_like(x) : at::empty_like(x);
  if (needs_values) grad_values = at::zeros_like(lists.values);
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, input.scalar_type(), "depthwise_taps_backward", [&] {
        using sum_t = at::opmath_type<scalar_t>;
        if (needs_input && !empty) {
          const auto own = task<scalar_t, sum_t, false>(dy, grad_input, lists, n, g);
          launch(
              sum_taps<scalar_t, sum_t, false>,
              blocks(n.batch * n.channels * stride[0] * stride[1] * own.chunks), dim3(own.threads),
              kShared, own);
        }
        if (needs_values && !empty && n.taps > 0) {
          const auto own = task<scalar_t, sum_t, true>(x, at::Tensor(), lists, n, g);
          // Enough blocks for a large GPU; no more, since their parts are added up.
          const int64_t sums = n.channels * n.multiplier * ((n.taps + kValues - 1) / kValues);
          const int64_t pieces =
              std::clamp<int64_t>((1024 + sums - 1) / sums, 1, in_32_bits(n.batch * own.chunks));
          const at::Tensor parts =
              at::empty({pieces, n.channels, n.multiplier, n.taps}, lists.values.options());
          launch(
              sum_values<scalar_t, sum_t>, blocks(sums * pieces), dim3(own.threads), kShared, own,
              dy.const_data_ptr<scalar_t>(), parts.data_ptr<sum_t>(), in_32_bits(n.batch),
              static_cast<int>(pieces));
          grad_values = pieces == 1 ? parts[0] : parts.sum(0);
        }
      });
  if (needs_input) grad_input = grad_input.contiguous(format_of(input));
  return {grad_input, grad_values.to(values.scalar_type())};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmlearnconv, CUDA, m) {
  m.impl("depthwise_taps", depthwise_taps);
  m.impl("depthwise_taps_backward", depthwise_taps_backward);
}

}  // namespace mmlearnconv
