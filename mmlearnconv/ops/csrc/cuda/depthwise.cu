// Depthwise convolution with large kernels: forward, input gradient, weight gradient.
//
// A convolution of stride s is a sum of s * s convolutions of stride 1, each of the input's rows
// and columns of one residue modulo s with the kernel's of one residue; and its input gradient is a
// convolution of stride 1 for the input's of each residue. So the kernels know stride 1 only.

#include "../common/depthwise_taps.h"
#include "launch.cuh"

#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <optional>
#include <utility>

namespace mmlearnconv {
namespace {

constexpr int kWidest = 31;    // kernels, rows and columns
constexpr int kColumns = 8;    // of outputs that a thread computes side by side
constexpr int kRows = 3;       // of these
constexpr int kThreads = 256;  // of a block at most
// A weight gradient sums rows of a map, kGradRows x kGradColumns of its outputs at a time.
constexpr int kGradRows = 16, kGradColumns = 64;

// Elements of one dtype, which only the loads and stores of maps know: sums are in float32.
enum class Kind : int { kFloat, kHalf, kBFloat16 };

__device__ __forceinline__ float load(const void* from, int64_t i, Kind kind) {
  if (kind == Kind::kFloat) return static_cast<const float*>(from)[i];
  if (kind == Kind::kHalf) return static_cast<float>(static_cast<const at::Half*>(from)[i]);
  return static_cast<float>(static_cast<const at::BFloat16*>(from)[i]);
}

__device__ __forceinline__ void store(void* to, int64_t i, float value, Kind kind) {
  if (kind == Kind::kFloat)
    static_cast<float*>(to)[i] = value;
  else if (kind == Kind::kHalf)
    static_cast<at::Half*>(to)[i] = static_cast<at::Half>(value);
  else
    static_cast<at::BFloat16*>(to)[i] = static_cast<at::BFloat16>(value);
}

// Rows or columns of one residue: of a map with `size` of them, every step-th from the first on.
struct Residue {
  int first, step, size;

  Residue() = default;
  C10_HOST_DEVICE Residue(int64_t whole, int64_t first, int64_t step)
      : first(static_cast<int>(first)),
        step(static_cast<int>(step)),
        size(static_cast<int>(whole > first ? (whole - first + step - 1) / step : 0)) {}
};

// One axis of a convolution of stride 1: output o sums input o + shift + u times the kernel's u.
struct Line {
  Residue input, kernel;
  int shift;
  bool flipped;

  // The kernel's own index of u.
  __device__ __forceinline__ int cell(int u) const {
    return kernel.first + (flipped ? kernel.size - 1 - u : u) * kernel.step;
  }
};

// A contiguous map in memory.
struct Memory {
  void* data;
  int plane, y, x;  // elements from one plane, row or column to the next

  Memory(const at::Tensor& map)
      : data(map.data_ptr()),
        plane(static_cast<int>(map.size(2) * map.size(3))),
        y(static_cast<int>(map.stride(2))),
        x(static_cast<int>(map.stride(3))) {}
};

// Rounded up to an odd number of 16 bytes: eight rows, read 16 bytes each, lie in different banks.
inline int pitch_of(int64_t floats) {
  const int64_t vectors = (floats + 3) / 4;
  return static_cast<int>(4 * (vectors + 1 - vectors % 2));
}

struct Tiles {
  int columns, rows, planes;                        // of threads in a block: each has 8 x 3 outputs
  int across, down;                                 // tiles of a map
  int tile_rows, pitch, kernel_rows, kernel_pitch;  // of shared memory

  C10_HOST_DEVICE int threads() const {
    return columns * rows * planes;
  }
  C10_HOST_DEVICE int floats() const {
    return tile_rows * pitch + kernel_rows * kernel_pitch;
  }
};

struct Convolution {
  Memory input, output;
  const void *weight, *bias;
  Kind kind;
  int channels, planes, weight_rows, weight_columns;
  Residue out_y, out_x;
  int phases;  // residues of the stride on an axis
  Line y[2], x[2];
  Tiles tiles;
};

struct WeightGradient {
  Memory input, grad;
  float* parts;  // (parts, channels, rows, columns)
  Kind kind;
  int channels, images, height, width, weight_rows, weight_columns, part_count, slices;
  Line y, x;
  int pitch;
};

template <int vectors>
__device__ __forceinline__ void read(float* to, const float* from) {
#pragma unroll
  for (int i = 0; i < vectors; ++i) {
    const float4 four = reinterpret_cast<const float4*>(from)[i];
    to[4 * i] = four.x;
    to[4 * i + 1] = four.y;
    to[4 * i + 2] = four.z;
    to[4 * i + 3] = four.w;
  }
}

// A tile of a map's plane in shared memory, zeros outside the map: tile cell (0, 0) is the
// residues' row j and column i. A warp reads a row.
__device__ __forceinline__ void stage(
    float* to, const Memory& map, int64_t plane, Kind kind, const Residue& y, const Residue& x,
    int j, int i, int rows, int pitch, int columns) {
  const int warps = static_cast<int>(blockDim.x) / 32;
  for (int row = static_cast<int>(threadIdx.x) / 32; row < rows; row += warps) {
    const bool inside = j + row >= 0 && j + row < y.size;
    const int64_t begin = plane + int64_t(y.first + (inside ? j + row : 0) * y.step) * map.y;
    for (int column = static_cast<int>(threadIdx.x) % 32; column < columns; column += 32) {
      const int at = i + column;
      to[row * pitch + column] = inside && at >= 0 && at < x.size
                                     ? load(map.data, begin + (x.first + at * x.step) * map.x, kind)
                                     : 0.0f;
    }
  }
}

// Adds kernel rows times the input rows below a thread's first one: each row is read once, for all
// outputs that it belongs to.
template <int width>
__device__ __forceinline__ void convolve(
    float (&sums)[kRows][kColumns], const float* tile, const float* kernel, int height,
    const Tiles& tiles) {
  constexpr int vectors = (kColumns + width + 2) / 4;
#pragma unroll 1
  for (int row = 0; row < height + kRows - 1; ++row) {
    float window[4 * vectors];
    read<vectors>(window, tile + row * tiles.pitch);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int u = row - r;
      if (u < 0 || u >= height) continue;
      float weights[(width + 3) / 4 * 4];
      read<(width + 3) / 4>(weights, kernel + u * tiles.kernel_pitch);
#pragma unroll
      for (int v = 0; v < width; ++v)
#pragma unroll
        for (int c = 0; c < kColumns; ++c) sums[r][c] += weights[v] * window[c + v];
    }
  }
}

// Kernels of `width` columns, or, of a strided convolution's residues, of one fewer.
template <int width, bool strided>
__global__ void __launch_bounds__(kThreads, 2)
    depthwise_forward_kernel(const __grid_constant__ Convolution g) {
  MMLC_SHARED_MEMORY(float, memory);
  const Tiles& t = g.tiles;
  const int thread = static_cast<int>(threadIdx.x), tiles = t.across * t.down;
  const int tile = static_cast<int>(blockIdx.x) % tiles;
  const int first_plane = static_cast<int>(blockIdx.x) / tiles * t.planes;
  const int planes = min(t.planes, g.planes - first_plane);
  const int x0 = tile % t.across * t.columns * kColumns, y0 = tile / t.across * t.rows * kRows;
  const int own_x = thread % t.columns, own_y = thread / t.columns % t.rows;
  const int own = thread / (t.columns * t.rows);
  float sums[kRows][kColumns] = {};
  for (int phase = 0; phase < g.phases * g.phases; ++phase) {
    const Line &y = g.y[phase / g.phases], &x = g.x[phase % g.phases];
    if (phase > 0) __syncthreads();
    for (int p = 0; p < planes; ++p) {
      float* const to = memory + p * t.floats();
      const int plane = first_plane + p, channel = plane % g.channels;
      stage(
          to, g.input, int64_t(plane) * g.input.plane, g.kind, y.input, x.input, y0 + y.shift,
          x0 + x.shift, t.rows * kRows + y.kernel.size - 1, t.pitch, t.pitch);
      for (int i = thread; i < y.kernel.size * t.kernel_pitch; i += static_cast<int>(blockDim.x)) {
        const int u = i / t.kernel_pitch, v = i % t.kernel_pitch;
        const int64_t at =
            int64_t(channel * g.weight_rows + y.cell(u)) * g.weight_columns + x.cell(v);
        to[t.tile_rows * t.pitch + i] = v < x.kernel.size ? load(g.weight, at, g.kind) : 0.0f;
      }
    }
    __syncthreads();
    if (own >= planes) continue;
    const float* const from = memory + own * t.floats();
    const float* const kernel = from + t.tile_rows * t.pitch;
    const float* const first = from + own_y * kRows * t.pitch + own_x * kColumns;
    if (!strided || x.kernel.size == width)
      convolve<width>(sums, first, kernel, y.kernel.size, t);
    else if (width > 1 && x.kernel.size == width - 1)
      convolve<(width > 1 ? width - 1 : 1)>(sums, first, kernel, y.kernel.size, t);
  }
  if (own >= planes) return;
  const int plane = first_plane + own, channel = plane % g.channels;
  const float bias = g.bias == nullptr ? 0.0f : load(g.bias, channel, g.kind);
  const int64_t begin = int64_t(plane) * g.output.plane;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int row = y0 + own_y * kRows + r;
    if (row >= g.out_y.size) break;
    const int64_t of_row = begin + int64_t(g.out_y.first + row * g.out_y.step) * g.output.y;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int column = x0 + own_x * kColumns + c;
      if (column < g.out_x.size)
        store(
            g.output.data, of_row + (g.out_x.first + column * g.out_x.step) * g.output.x,
            sums[r][c] + bias, g.kind);
    }
  }
}

// A block sums some pieces of one channel's maps. A thread has a row of the kernel, and of each
// piece those groups of eight outputs that are its slice's; slices are added in their order, and
// the parts of all blocks after the launch.
template <int width>
__global__ void __launch_bounds__(kThreads, 2)
    depthwise_weight_grad_kernel(const __grid_constant__ WeightGradient g) {
  MMLC_SHARED_MEMORY(float, memory);
  constexpr int vectors = (kColumns + width + 2) / 4;
  const int thread = static_cast<int>(threadIdx.x), height = g.y.kernel.size;
  const int u = thread % height, slice = thread / height;
  const int channel = static_cast<int>(blockIdx.x) / g.part_count;
  const int part = static_cast<int>(blockIdx.x) % g.part_count;
  const int across = (g.width + kGradColumns - 1) / kGradColumns;
  const int pieces = (g.height + kGradRows - 1) / kGradRows * across;
  const Residue all_y(g.height, 0, 1), all_x(g.width, 0, 1);
  float* const tile = memory + kGradRows * kGradColumns;
  float sums[width] = {};
  for (int piece = part; piece < pieces * g.images; piece += g.part_count) {
    const int image = piece / pieces, y0 = piece % pieces / across * kGradRows;
    const int x0 = piece % pieces % across * kGradColumns, plane = image * g.channels + channel;
    __syncthreads();
    stage(
        memory, g.grad, int64_t(plane) * g.grad.plane, g.kind, all_y, all_x, y0, x0, kGradRows,
        kGradColumns, kGradColumns);
    stage(
        tile, g.input, int64_t(plane) * g.input.plane, g.kind, g.y.input, g.x.input, y0 + g.y.shift,
        x0 + g.x.shift, kGradRows + height - 1, g.pitch, g.pitch);
    __syncthreads();
    if (slice >= g.slices) continue;
    const int rows = min(kGradRows, g.height - y0), columns = min(kGradColumns, g.width - x0);
    const int groups = (columns + kColumns - 1) / kColumns;
    int row = slice / groups, group = slice - row * groups;
    const int more_rows = g.slices / groups, more_groups = g.slices - more_rows * groups;
#pragma unroll 1
    while (row < rows) {
      const int first = group * kColumns;
      const float *from = tile + (row + u) * g.pitch + first,
                  *grads = memory + row * kGradColumns + first;
      if (first + kColumns <= columns) {
        float window[4 * vectors], eight[kColumns];
        read<vectors>(window, from);
        read<kColumns / 4>(eight, grads);
#pragma unroll
        for (int c = 0; c < kColumns; ++c)
#pragma unroll
          for (int v = 0; v < width; ++v) sums[v] += eight[c] * window[c + v];
      } else {
        // Beyond the map the gradient is zero, and what it would multiply need not be a number.
#pragma unroll 1
        for (int c = 0; c < columns - first; ++c)
#pragma unroll
          for (int v = 0; v < width; ++v) sums[v] += grads[c] * from[c + v];
      }
      row += more_rows;
      group += more_groups;
      if (group >= groups) {
        group -= groups;
        ++row;
      }
    }
  }
  __syncthreads();
  if (slice < g.slices) {
#pragma unroll
    for (int v = 0; v < width; ++v) memory[thread * width + v] = sums[v];
  }
  __syncthreads();
  for (int i = thread; i < height * width; i += static_cast<int>(blockDim.x)) {
    float sum = 0;
    for (int s = 0; s < g.slices; ++s) sum += memory[s * height * width + i];
    const int row = (part * g.channels + channel) * g.weight_rows + g.y.cell(i / width);
    g.parts[int64_t(row) * g.weight_columns + g.x.cell(i % width)] = sum;
  }
}

// A function of a compile-time width, by the one at run time.
template <typename Function, int... widths>
void with_width(int width, const Function& function, std::integer_sequence<int, widths...>) {
  const bool known =
      ((width == widths + 1 && (function(std::integral_constant<int, widths + 1>{}), true)) || ...);
  TORCH_CHECK(known, "depthwise: kernels have at most ", kWidest, " columns, not ", width);
}

Kind kind_of(const at::Tensor& map) {
  switch (map.scalar_type()) {
    case at::kFloat:
      return Kind::kFloat;
    case at::kHalf:
      return Kind::kHalf;
    case at::kBFloat16:
      return Kind::kBFloat16;
    default:
      break;
  }
  TORCH_CHECK(false, "depthwise: ", map.scalar_type(), " is not float32, float16 or bfloat16");
}

void check_map(const at::Tensor& map) {
  const int64_t last = (map.size(2) - 1) * map.stride(2) + (map.size(3) - 1) * map.stride(3);
  TORCH_CHECK(
      last < (int64_t(1) << 31) && map.size(0) * map.size(1) < (int64_t(1) << 31),
      "depthwise: maps of ", map.sizes(), " have more elements than 32 bits count");
}

int64_t floor_divide(int64_t a, int64_t b) {
  return a / b - (a % b != 0 && (a % b < 0) != (b < 0));
}

// Of output o's sum over u the cells u with residue `a`: they read input s (o + u') + a - p.
Line forward_line(int64_t input, int64_t size, int64_t stride, int64_t padding, int64_t a) {
  const int64_t shift = floor_divide(a - padding, stride);
  return {
      Residue(input, a - padding - shift * stride, stride), Residue(size, a, stride),
      static_cast<int>(shift), false};
}

// Of the input gradient of inputs s j + r: output j - u' + (r + p - a) / s, with a = (r + p) mod s.
Line gradient_line(int64_t output, int64_t size, int64_t stride, int64_t padding, int64_t r) {
  const int64_t a = (r + padding) % stride;
  Line line{Residue(output, 0, 1), Residue(size, a, stride), 0, true};
  line.shift = static_cast<int>((r + padding - a) / stride) - (line.kernel.size - 1);
  return line;
}

Tiles tiles_for(const Convolution& g) {
  Tiles t;
  int rows = 0, width = 1;
  for (int phase = 0; phase < g.phases; ++phase) {
    rows = std::max(rows, g.y[phase].kernel.size);
    width = std::max(width, g.x[phase].kernel.size);
  }
  // Tiles of up to 64 columns and 48 rows, which divide the map evenly.
  const auto divide = [](int size, int most, int own, int* count) {
    *count = (size + most - 1) / most;
    return ((size + *count - 1) / *count + own - 1) / own;
  };
  t.columns = divide(g.out_x.size, 8 * kColumns, kColumns, &t.across);
  t.rows = divide(g.out_y.size, 16 * kRows, kRows, &t.down);
  t.tile_rows = t.rows * kRows + std::max(rows, 1) - 1;
  t.pitch = pitch_of((t.columns - 1) * kColumns + (kColumns + width + 2) / 4 * 4);
  t.kernel_rows = rows;
  t.kernel_pitch = (width + 3) / 4 * 4;
  const int64_t most = std::min<int64_t>(
      kThreads / (t.columns * t.rows), kSharedBytes / (t.floats() * sizeof(float)));
  t.planes = static_cast<int>(std::clamp<int64_t>(most, 1, g.planes));
  return t;
}

void run(Convolution& g) {
  if (g.planes == 0 || g.out_y.size == 0 || g.out_x.size == 0) return;
  g.tiles = tiles_for(g);
  const Tiles& t = g.tiles;
  const int64_t blocks = int64_t((g.planes + t.planes - 1) / t.planes) * t.across * t.down;
  TORCH_CHECK(blocks < (int64_t(1) << 31), "depthwise: ", blocks, " blocks are too many");
  const dim3 grid(static_cast<unsigned>(blocks)), block((t.threads() + 31) / 32 * 32);
  const size_t shared = static_cast<size_t>(t.planes) * t.floats() * sizeof(float);
  int width = 1;
  for (int phase = 0; phase < g.phases; ++phase) width = std::max(width, g.x[phase].kernel.size);
  if (g.phases == 1)
    with_width(
        width,
        [&](auto columns) {
          launch(depthwise_forward_kernel<columns, false>, grid, block, shared, g);
        },
        std::make_integer_sequence<int, kWidest>{});
  else
    with_width(
        width,
        [&](auto columns) {
          launch(depthwise_forward_kernel<columns, true>, grid, block, shared, g);
        },
        std::make_integer_sequence<int, (kWidest + 1) / 2>{});
}

Convolution convolution(
    const at::Tensor& input, const at::Tensor& weight, const at::Tensor& output) {
  TORCH_CHECK(
      weight.dim() == 4 && weight.size(1) == 1 && weight.size(0) == input.size(1) &&
          weight.scalar_type() == input.scalar_type() && weight.device() == input.device(),
      "depthwise: weight ", weight.sizes(), " of ", weight.scalar_type(), " on ", weight.device(),
      " must be (C, 1, rows, columns), for input ", input.sizes(), " of ", input.scalar_type(),
      " on ", input.device());
  check_map(input);
  check_map(output);
  Convolution g{Memory(input), Memory(output), weight.const_data_ptr(), nullptr, kind_of(input)};
  g.channels = static_cast<int>(input.size(1));
  g.planes = static_cast<int>(input.size(0) * input.size(1));
  g.weight_rows = static_cast<int>(weight.size(2));
  g.weight_columns = static_cast<int>(weight.size(3));
  return g;
}

// Whether the kernels here can do it.
bool is_fast(
    const at::Tensor& map, at::IntArrayRef size, at::IntArrayRef stride, at::IntArrayRef dilation) {
  return stride[0] == stride[1] && stride[0] <= 2 && dilation[0] == 1 && dilation[1] == 1 &&
         size[0] <= kWidest && size[1] <= kWidest && map.scalar_type() != at::kDouble;
}

void check_fast(const at::Tensor& map, const at::Tensor& weight, at::IntArrayRef stride) {
  TORCH_CHECK(
      map.dim() == 4 && weight.dim() == 4 && is_fast(map, weight.sizes().slice(2), stride, {1, 1}),
      "depthwise: stride ", stride, " and weight ", weight.sizes(), " for ", map.scalar_type(), " ",
      map.sizes(), "; the stride must be 1 or 2, the kernel at most ", kWidest, " x ", kWidest,
      ", the map (N, C, H, W) and not of float64");
}

at::Tensor depthwise_forward(
    const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
    at::IntArrayRef output_size, at::IntArrayRef stride, at::IntArrayRef padding) {
  const c10::cuda::CUDAGuard guard(input.device());
  check_fast(input, weight, stride);
  const at::Tensor x = input.contiguous(), w = weight.contiguous();
  const at::Tensor b = bias ? bias->to(input.scalar_type()).contiguous() : at::Tensor();
  const at::Tensor out =
      at::empty({x.size(0), x.size(1), output_size[0], output_size[1]}, x.options());
  Convolution g = convolution(x, w, out);
  g.bias = bias ? b.const_data_ptr() : nullptr;
  g.out_y = Residue(out.size(2), 0, 1);
  g.out_x = Residue(out.size(3), 0, 1);
  g.phases = static_cast<int>(stride[0]);
  for (int a = 0; a < g.phases; ++a) {
    g.y[a] = forward_line(x.size(2), w.size(2), stride[0], padding[0], a);
    g.x[a] = forward_line(x.size(3), w.size(3), stride[1], padding[1], a);
  }
  run(g);
  return out.contiguous(format_of(input));
}

at::Tensor depthwise_input_grad(
    const at::Tensor& grad, const at::Tensor& weight, at::IntArrayRef input_size,
    at::IntArrayRef stride, at::IntArrayRef padding) {
  const c10::cuda::CUDAGuard guard(grad.device());
  check_fast(grad, weight, stride);
  const at::Tensor dy = grad.contiguous(), w = weight.contiguous();
  const at::Tensor out =
      at::empty({dy.size(0), dy.size(1), input_size[0], input_size[1]}, dy.options());
  Convolution g = convolution(dy, w, out);
  g.phases = 1;
  for (int64_t r = 0; r < stride[0]; ++r) {
    for (int64_t q = 0; q < stride[1]; ++q) {
      g.out_y = Residue(out.size(2), r, stride[0]);
      g.out_x = Residue(out.size(3), q, stride[1]);
      g.y[0] = gradient_line(dy.size(2), w.size(2), stride[0], padding[0], r);
      g.x[0] = gradient_line(dy.size(3), w.size(3), stride[1], padding[1], q);
      run(g);
    }
  }
  return out.contiguous(format_of(grad));
}

at::Tensor depthwise_weight_grad(
    const at::Tensor& input, const at::Tensor& grad, at::IntArrayRef size, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation) {
  const c10::cuda::CUDAGuard guard(input.device());
  check_weight_grad(input, grad, size, stride, padding, dilation);
  if (!is_fast(input, size, stride, dilation)) {
    const at::Tensor weight = at::empty({input.size(1), 1, size[0], size[1]}, input.options());
    return std::get<1>(at::convolution_backward(
        grad, input, weight, at::OptionalIntArrayRef(), stride, padding, dilation, false, {0, 0},
        input.size(1), {false, true, false}));
  }
  const at::Tensor x = input.contiguous(), dy = grad.contiguous();
  check_map(x);
  check_map(dy);
  WeightGradient g{Memory(x), Memory(dy), nullptr, kind_of(x)};
  g.channels = static_cast<int>(x.size(1));
  g.images = static_cast<int>(x.size(0));
  g.height = static_cast<int>(dy.size(2));
  g.width = static_cast<int>(dy.size(3));
  g.weight_rows = static_cast<int>(size[0]);
  g.weight_columns = static_cast<int>(size[1]);
  const int64_t pieces = g.images * ((dy.size(2) + kGradRows - 1) / kGradRows) *
                         ((dy.size(3) + kGradColumns - 1) / kGradColumns);
  // Enough blocks for a large GPU; no more, since their parts are added up.
  const int64_t wanted = (1024 + g.channels - 1) / std::max(g.channels, 1);
  g.part_count = static_cast<int>(std::clamp<int64_t>(wanted, 1, std::max<int64_t>(pieces, 1)));
  const at::Tensor parts =
      at::empty({g.part_count, g.channels, 1, size[0], size[1]}, x.options().dtype(at::kFloat));
  g.parts = parts.data_ptr<float>();
  for (int64_t a = 0; g.channels > 0 && a < std::min(stride[0], size[0]); ++a) {
    for (int64_t b = 0; b < std::min(stride[1], size[1]); ++b) {
      g.y = forward_line(x.size(2), size[0], stride[0], padding[0], a);
      g.x = forward_line(x.size(3), size[1], stride[1], padding[1], b);
      const int height = g.y.kernel.size, width = g.x.kernel.size;
      g.slices = kThreads / height;
      g.pitch = pitch_of(kGradColumns - kColumns + (kColumns + width + 2) / 4 * 4);
      const int64_t floats = std::max<int64_t>(
          kGradRows * kGradColumns + (kGradRows + height - 1) * g.pitch,
          (int64_t(g.slices) * height * width + 3) / 4 * 4);
      with_width(
          width,
          [&](auto columns) {
            launch(
                depthwise_weight_grad_kernel<columns>, dim3(g.channels * g.part_count),
                dim3((g.slices * height + 31) / 32 * 32), floats * sizeof(float), g);
          },
          std::make_integer_sequence<int, kWidest>{});
    }
  }
  return parts.sum(0).to(input.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(mmlearnconv, CUDA, m) {
  m.impl("depthwise_forward", depthwise_forward);
  m.impl("depthwise_input_grad", depthwise_input_grad);
  m.impl("depthwise_weight_grad", depthwise_weight_grad);
}

}  // namespace mmlearnconv
