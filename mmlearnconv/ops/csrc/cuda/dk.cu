// Convolutions with resampled kernels; maps are channels_last. A warp computes a location, each
// lane some channels; the taps' cells and shares, which all channels have in common, are worked out
// once.

#include "../common/depthwise_taps.h"
#include "../common/dk.h"
#include "launch.cuh"

#include <ATen/Context.h>
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <torch/library.h>

#include <algorithm>
#include <tuple>
#include <type_traits>
#include <utility>

namespace mmlearnconv {
namespace {

constexpr int kSide = 4;  // channels that a lane sums side by side, which share a tap's entry

// What every kernel here reads. Sums and offsets are sum_t.
template <typename scalar_t, typename sum_t, bool HAS_DATA_OFFSETS>
struct Sampling {
  typedef DeformableTap<sum_t> Tap;
  DeformableOf<int32_t> d;
  const scalar_t* input;
  const sum_t *offsets, *data_offsets;

  __device__ Tap tap(const Location<int>& index, int k) const {
    const int u = k / d.kernel_columns;
    return deformable_tap<sum_t, HAS_DATA_OFFSETS>(
        d, offsets, data_offsets, index.n, index.y, index.x, u, k - u * d.kernel_columns);
  }
  // The tap of location j of the batch.
  __device__ Tap tap(int j, int k) const {
    return tap(Location<int>::of(j, d.map.y.out_size, d.map.x.out_size), k);
  }
  __device__ static bool misses(const Tap& tap) {
    return !HAS_DATA_OFFSETS && tap.map.index[0] < 0;
  }
  __device__ sum_t pixel(int index, int c) const {
    if (index < 0) return 0;
    return static_cast<sum_t>(input[static_cast<int64_t>(index) * d.channels + c]);
  }
  __device__ sum_t read(const Tap& tap, int c) const {
    if (!HAS_DATA_OFFSETS) return pixel(tap.map.index[0], c);
    sum_t value = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) value += tap.map.weight[i] * pixel(tap.map.index[i], c);
    return value;
  }
  // A tap's weight: `space` is (cell, C), the kernel space or a location's columns' gradient.
  template <typename space_t>
  __device__ sum_t weight(const Tap& tap, const space_t* space, int c) const {
    sum_t value = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      value += tap.space.weight[i] * static_cast<sum_t>(space[tap.space.index[i] * d.channels + c]);
    return value;
  }
};

template <typename scalar_t, typename sum_t, bool HAS_DATA_OFFSETS>
struct DkDepthwise {
  typedef DeformableTap<sum_t> Tap;
  Sampling<scalar_t, sum_t, HAS_DATA_OFFSETS> s;
  scalar_t* out;
  const sum_t* space;

  __device__ void operator()(int j, const Warp& warp) const {
    const int channels = s.d.channels;
    for (int first = warp.lane; first - warp.lane < channels; first += kSide * kLanesOfWarp) {
      sum_t totals[kSide] = {};
      warp.over_taps<Tap>(
          s.d.taps(), first == warp.lane, [&](int k) { return s.tap(j, k); },
          [&](const Tap& tap, int) {
            if (s.misses(tap)) return;
#pragma unroll
            for (int v = 0; v < kSide; ++v) {
              const int c = first + v * kLanesOfWarp;
              if (c < channels) totals[v] += s.weight(tap, space, c) * s.read(tap, c);
            }
          });
#pragma unroll
      for (int v = 0; v < kSide; ++v) {
        const int c = first + v * kLanesOfWarp;
        if (c < channels)
          out[static_cast<int64_t>(j) * channels + c] = static_cast<scalar_t>(totals[v]);
      }
    }
  }
};

// Taps, and then the sums of up to kCells cells for each lane's kSide channels, are in a warp's
// shared memory.
template <typename sum_t>
struct CellSums {
  typedef DeformableTap<sum_t> Tap;
  static constexpr int kTaps = kLanesOfWarp * sizeof(Tap), kCells = 16;

  static int64_t bytes(int64_t cells) {
    return kTaps + std::min<int64_t>(cells, kCells) * kSide * kLanesOfWarp * sizeof(sum_t);
  }

  sum_t* own;
  int begin, count;

  __device__ CellSums(const Warp& warp, int begin, int cells)
      : own(reinterpret_cast<sum_t*>(warp.memory + kTaps) + warp.lane),
        begin(begin),
        count(min(cells - begin, kCells)) {
    for (int i = 0; i < count * kSide; ++i) own[i * kLanesOfWarp] = 0;
  }
  // Of cell begin + i and the v-th channel.
  __device__ sum_t& at(int i, int v) const {
    return own[(i * kSide + v) * kLanesOfWarp];
  }
  __device__ void add(const Tap& tap, const sum_t (&values)[kSide]) const {
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const auto i = static_cast<unsigned>(tap.space.index[n] - begin);
      if (i >= static_cast<unsigned>(count)) continue;
#pragma unroll
      for (int v = 0; v < kSide; ++v) at(i, v) += tap.space.weight[n] * values[v];
    }
  }
};

// Work items are locations, from `begin` on.
template <typename scalar_t, typename sum_t, bool HAS_DATA_OFFSETS>
struct DkColumns {
  typedef DeformableTap<sum_t> Tap;
  Sampling<scalar_t, sum_t, HAS_DATA_OFFSETS> s;
  scalar_t* out;  // (location, cell, C)
  int begin;

  __device__ void operator()(int i, const Warp& warp) const {
    const int channels = s.d.channels, cells = s.d.cells();
    scalar_t* const own = out + static_cast<int64_t>(i) * cells * channels;
    for (int first = warp.lane; first - warp.lane < channels; first += kSide * kLanesOfWarp) {
      for (int from = 0; from < cells; from += CellSums<sum_t>::kCells) {
        const CellSums<sum_t> sums(warp, from, cells);
        warp.over_taps<Tap>(
            s.d.taps(), first == warp.lane && from == 0, [&](int k) { return s.tap(begin + i, k); },
            [&](const Tap& tap, int) {
              if (s.misses(tap)) return;
              sum_t values[kSide];
#pragma unroll
              for (int v = 0; v < kSide; ++v) {
                const int c = first + v * kLanesOfWarp;
                values[v] = c < channels ? s.read(tap, c) : sum_t(0);
              }
              sums.add(tap, values);
            });
#pragma unroll
        for (int v = 0; v < kSide; ++v) {
          const int c = first + v * kLanesOfWarp;
          if (c >= channels) continue;
          for (int n = 0; n < sums.count; ++n)
            own[(from + n) * channels + c] = static_cast<scalar_t>(sums.at(n, v));
        }
      }
    }
  }
};

// What the gradients are computed from. If DEPTHWISE, `space` is the kernel space and `grad` the
// gradient of the output. Otherwise `space` is the gradient of the columns from location `begin`
// on, and `grad` is null.
template <typename scalar_t, typename sum_t, bool HAS_DATA_OFFSETS, bool DEPTHWISE>
struct DkGradients {
  typedef DeformableTap<sum_t> Tap;
  typedef std::conditional_t<DEPTHWISE, sum_t, scalar_t> space_t;
  Sampling<scalar_t, sum_t, HAS_DATA_OFFSETS> s;
  const scalar_t* grad;
  const space_t* space;
  int begin, end;

  // What arrives at a location of the batch.
  struct Arriving {
    const scalar_t* grad;
    const space_t* space;

    __device__ sum_t at(int c) const {
      return DEPTHWISE ? static_cast<sum_t>(grad[c]) : sum_t(1);
    }
  };
  __device__ Arriving arriving(int j) const {
    const int64_t channels = s.d.channels;
    if (DEPTHWISE) return {grad + j * channels, space};
    return {nullptr, space + (j - begin) * s.d.cells() * channels};
  }
};

// Gradient of the input, accumulated: pixels `first_pixel` and up gather from all outputs that read
// them.
template <typename scalar_t, typename sum_t, bool DEPTHWISE>
struct DkInputGrad {
  typedef DkGradients<scalar_t, sum_t, false, DEPTHWISE> Gradients;
  // A tap that reads the pixel, and what arrives at its location; null if there is none.
  struct Entry {
    typename Gradients::Tap tap;
    typename Gradients::Arriving arriving;
  };
  Gradients g;
  sum_t* grad_input;
  int first_pixel;

  __device__ Entry entry(const Location<int>& pixel, int k) const {
    const auto& d = g.s.d;
    const int u = k / d.kernel_columns;
    const int y = d.map.y.output_of(pixel.y, u);
    const int x = d.map.x.output_of(pixel.x, k - u * d.kernel_columns);
    const int j = (pixel.n * d.map.y.out_size + y) * d.map.x.out_size + x;
    if (y < 0 || x < 0 || j < g.begin || j >= g.end) return {{}, {nullptr, nullptr}};
    return {g.s.tap({pixel.n, y, x}, k), g.arriving(j)};
  }
  __device__ void operator()(int i, const Warp& warp) const {
    const auto& d = g.s.d;
    const int own = first_pixel + i;
    const auto pixel = Location<int>::of(own, d.map.y.size, d.map.x.size);
    const int channels = d.channels;
    for (int first = warp.lane; first - warp.lane < channels; first += kSide * kLanesOfWarp) {
      sum_t totals[kSide] = {};
      warp.over_taps<Entry>(
          d.taps(), first == warp.lane, [&](int k) { return entry(pixel, k); },
          [&](const Entry& entry, int) {
            if (entry.arriving.space == nullptr) return;
#pragma unroll
            for (int v = 0; v < kSide; ++v) {
              const int c = first + v * kLanesOfWarp;
              if (c < channels)
                totals[v] += entry.arriving.at(c) * g.s.weight(entry.tap, entry.arriving.space, c);
            }
          });
#pragma unroll
      for (int v = 0; v < kSide; ++v) {
        const int c = first + v * kLanesOfWarp;
        if (c < channels) grad_input[static_cast<int64_t>(own) * channels + c] += totals[v];
      }
    }
  }
};

// The same with data offsets. The outputs that read a pixel are then unknown, so the locations
// scatter: with one work item per location or, if the result must be deterministic, one per 32
// channels, which goes through the locations in order.
template <typename scalar_t, typename sum_t, bool DEPTHWISE>
struct DkMovedInputGrad {
  typedef DeformableTap<sum_t> Tap;
  DkGradients<scalar_t, sum_t, true, DEPTHWISE> g;
  sum_t* grad_input;
  bool in_order;

  __device__ void operator()(int i, const Warp& warp) const {
    const auto& d = g.s.d;
    const int from = in_order ? i * kLanesOfWarp : 0;
    const int to = in_order ? min(from + kLanesOfWarp, d.channels) : d.channels;
    for (int j = in_order ? g.begin : g.begin + i; j < (in_order ? g.end : g.begin + i + 1); ++j) {
      const auto arriving = g.arriving(j);
      for (int first = from; first < to; first += kLanesOfWarp) {
        const int c = first + warp.lane;
        warp.over_taps<Tap>(
            d.taps(), first == from, [&](int k) { return g.s.tap(j, k); },
            [&](const Tap& tap, int) {
              if (c >= to) return;
              const sum_t passed = arriving.at(c) * g.s.weight(tap, arriving.space, c);
              for (int n = 0; n < 4; ++n)
                if (tap.map.index[n] >= 0)
                  atomicAdd(
                      grad_input + static_cast<int64_t>(tap.map.index[n]) * d.channels + c,
                      tap.map.weight[n] * passed);
            });
      }
    }
  }
};

// Gradients of the offsets. Work items are locations.
template <typename scalar_t, typename sum_t, bool HAS_DATA_OFFSETS, bool DEPTHWISE>
struct DkOffsetGrad {
  typedef DeformableTap<sum_t> Tap;
  DkGradients<scalar_t, sum_t, HAS_DATA_OFFSETS, DEPTHWISE> g;
  sum_t *grad_offsets, *grad_data_offsets;

  __device__ void operator()(int i, const Warp& warp) const {
    const auto& d = g.s.d;
    const int j = g.begin + i, n = j / d.locations(), channels = d.channels;
    const auto arriving = g.arriving(j);
    const int locations = d.locations();
    const int64_t own = static_cast<int64_t>(2 * n * d.taps()) * locations + j - n * locations;
    warp.over_taps<Tap>(
        d.taps(), true, [&](int k) { return g.s.tap(j, k); },
        [&](const Tap& tap, int k) {
          sum_t y = 0, x = 0, data_y = 0, data_x = 0;
          for (int c = warp.lane; c < (g.s.misses(tap) ? 0 : channels); c += kLanesOfWarp) {
            sum_t corner[4];
#pragma unroll
            for (int a = 0; a < 4; ++a)
              corner[a] = static_cast<sum_t>(arriving.space[tap.space.index[a] * channels + c]);
            const sum_t passed = arriving.at(c), product = passed * g.s.read(tap, c);
            y += product * tap.space.slope_y(corner);
            x += product * tap.space.slope_x(corner);
            if constexpr (HAS_DATA_OFFSETS) {
              const sum_t weighted = passed * g.s.weight(tap, arriving.space, c);
#pragma unroll
              for (int a = 0; a < 4; ++a) corner[a] = g.s.pixel(tap.map.index[a], c);
              data_y += weighted * tap.map.slope_y(corner);
              data_x += weighted * tap.map.slope_x(corner);
            }
          }
          y = Warp::sum(y);
          x = Warp::sum(x);
          if constexpr (HAS_DATA_OFFSETS) {
            data_y = Warp::sum(data_y);
            data_x = Warp::sum(data_x);
          }
          if (warp.lane != 0) return;
          const int64_t at = own + static_cast<int64_t>(2 * k) * locations;
          grad_offsets[at] = tap.space.moves_y ? y : sum_t(0);
          grad_offsets[at + locations] = tap.space.moves_x ? x : sum_t(0);
          if constexpr (HAS_DATA_OFFSETS) {
            grad_data_offsets[at] = tap.map.moves_y ? data_y : sum_t(0);
            grad_data_offsets[at + locations] = tap.map.moves_x ? data_x : sum_t(0);
          }
        });
  }
};

// Gradient of the kernel space: one partial sum per piece of a few locations; the caller adds them.
// Work items are kSide * 32 channels of a piece.
template <typename scalar_t, typename sum_t, bool HAS_DATA_OFFSETS>
struct DkSpaceGrad {
  typedef DeformableTap<sum_t> Tap;
  DkGradients<scalar_t, sum_t, HAS_DATA_OFFSETS, true> g;
  sum_t* parts;   // (pieces, cell, C)
  int locations;  // of a piece

  static constexpr int kChannels = kSide * kLanesOfWarp;

  __device__ void operator()(int i, const Warp& warp) const {
    const auto& d = g.s.d;
    const int channels = d.channels, cells = d.cells();
    const int chunks = (channels - 1) / kChannels + 1, piece = i / chunks;
    const int first = (i - piece * chunks) * kChannels + warp.lane;
    sum_t* const own = parts + static_cast<int64_t>(piece) * cells * channels;
    const int last = min((piece + 1) * locations, g.end);
    for (int from = 0; from < cells; from += CellSums<sum_t>::kCells) {
      const CellSums<sum_t> sums(warp, from, cells);
      for (int j = piece * locations; j < last; ++j) {
        const auto arriving = g.arriving(j);
        warp.over_taps<Tap>(
            d.taps(), true, [&](int k) { return g.s.tap(j, k); },
            [&](const Tap& tap, int) {
              if (g.s.misses(tap)) return;
              sum_t values[kSide];
#pragma unroll
              for (int v = 0; v < kSide; ++v) {
                const int c = first + v * kLanesOfWarp;
                values[v] = c < channels ? arriving.at(c) * g.s.read(tap, c) : sum_t(0);
              }
              sums.add(tap, values);
            });
      }
#pragma unroll
      for (int v = 0; v < kSide; ++v) {
        const int c = first + v * kLanesOfWarp;
        if (c >= channels) continue;
        for (int n = 0; n < sums.count; ++n) own[(from + n) * channels + c] = sums.at(n, v);
      }
    }
  }
};

constexpr auto kChannelsLast = at::MemoryFormat::ChannelsLast;

struct DkOperators {
  // Calls `run` with the dtypes of the input and of the sums, and whether there are data offsets.
  template <typename Run>
  static void dispatch(const at::Tensor& input, bool moved, const Run& run) {
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "dk", [&] {
      using sum_t = at::opmath_type<scalar_t>;
      if (moved) {
        run(scalar_t(), sum_t(), std::true_type());
      } else {
        run(scalar_t(), sum_t(), std::false_type());
      }
    });
  }

  // Offsets as the kernels read them.
  struct Floats {
    at::Tensor offsets, data;

    Floats(const at::Tensor& input, const at::Tensor& own, const std::optional<at::Tensor>& moved)
        : offsets(own.to(accumulate_dtype(input)).contiguous()),
          data(moved ? moved->to(accumulate_dtype(input)).contiguous() : at::Tensor()) {}

    template <typename scalar_t, typename sum_t, bool HAS_DATA_OFFSETS>
    Sampling<scalar_t, sum_t, HAS_DATA_OFFSETS> sampling(
        const Deformable& d, const at::Tensor& x) const {
      return {
          in_32_bits(d), x.const_data_ptr<scalar_t>(), offsets.const_data_ptr<sum_t>(),
          HAS_DATA_OFFSETS ? data.const_data_ptr<sum_t>() : nullptr};
    }
  };

  static at::Tensor by_cell(const at::Tensor& space, at::ScalarType dtype) {
    return space.to(dtype).flatten(1).t().contiguous();
  }

  at::Tensor depthwise(
      const at::Tensor& input, const at::Tensor& space, const at::Tensor& offsets,
      const std::optional<at::Tensor>& data_offsets, at::IntArrayRef kernel_size,
      at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation) const {
    const Deformable d = depthwise_sizes(
        input, space, offsets, data_offsets, kernel_size, stride, padding, dilation);
    const at::Tensor x = input.contiguous(kChannelsLast),
                     cells = by_cell(space, accumulate_dtype(input));
    const Floats floats(input, offsets, data_offsets);
    const at::Tensor out = at::empty(
        {d.batch, d.channels, d.map.y.out_size, d.map.x.out_size}, x.options(), kChannelsLast);
    if (out.numel() > 0)
      dispatch(input, floats.data.defined(), [&](auto scalar, auto sum, auto moved) {
        typedef decltype(scalar) scalar_t;
        typedef decltype(sum) sum_t;
        constexpr bool HAS_DATA_OFFSETS = decltype(moved)::value;
        OnCuda::warps(
            d.batch * d.locations(), kLanesOfWarp * sizeof(DeformableTap<sum_t>),
            DkDepthwise<scalar_t, sum_t, HAS_DATA_OFFSETS>{
                floats.template sampling<scalar_t, sum_t, HAS_DATA_OFFSETS>(d, x),
                out.data_ptr<scalar_t>(), cells.const_data_ptr<sum_t>()});
      });
    return out.contiguous(format_of(input));
  }

  // The range of the batch's pixels that locations begin..end-1 read without data offsets.
  static std::pair<int64_t, int64_t> pixels_read(const Deformable& d, int64_t begin, int64_t end) {
    const auto pixel = [&](int64_t j, int64_t cell, int64_t more) {
      const int64_t n = j / d.locations(), y = j % d.locations() / d.map.x.out_size;
      const int64_t row = std::clamp<int64_t>(d.map.y.at(y, cell) + more, 0, d.map.y.size);
      return (n * d.map.y.size + row) * d.map.x.size;
    };
    const int64_t first = pixel(begin, 0, 0);
    return {first, std::max(first, pixel(end - 1, d.kernel_rows - 1, 1))};
  }

  // The gradients at locations begin..end-1, of all but the kernel space.
  template <bool DEPTHWISE>
  void gradients(
      const at::Tensor& grad_input, const at::Tensor& grad_offsets,
      const at::Tensor& grad_data_offsets, const at::Tensor& grad, const at::Tensor& x,
      const at::Tensor& space, const Floats& floats, const Deformable& d, int64_t begin,
      int64_t end) const {
    dispatch(x, floats.data.defined(), [&](auto scalar, auto sum, auto moved) {
      typedef decltype(scalar) scalar_t;
      typedef decltype(sum) sum_t;
      constexpr bool HAS_DATA_OFFSETS = decltype(moved)::value;
      const DkGradients<scalar_t, sum_t, HAS_DATA_OFFSETS, DEPTHWISE> g{
          floats.template sampling<scalar_t, sum_t, HAS_DATA_OFFSETS>(d, x),
          DEPTHWISE ? grad.const_data_ptr<scalar_t>() : nullptr,
          space.const_data_ptr<std::conditional_t<DEPTHWISE, sum_t, scalar_t>>(),
          static_cast<int>(begin), static_cast<int>(end)};
      constexpr int64_t bytes = kLanesOfWarp * sizeof(DeformableTap<sum_t>);
      sum_t* const into = grad_input.data_ptr<sum_t>();
      if constexpr (HAS_DATA_OFFSETS) {
        const bool in_order = at::globalContext().deterministicAlgorithms();
        OnCuda::warps(
            in_order ? (d.channels + kLanesOfWarp - 1) / kLanesOfWarp : end - begin, bytes,
            DkMovedInputGrad<scalar_t, sum_t, DEPTHWISE>{g, into, in_order});
      } else {
        typedef DkInputGrad<scalar_t, sum_t, DEPTHWISE> InputGrad;
        const auto [first, last] = pixels_read(d, begin, end);
        OnCuda::warps(
            last - first, kLanesOfWarp * sizeof(typename InputGrad::Entry),
            InputGrad{g, into, static_cast<int>(first)});
      }
      OnCuda::warps(
          end - begin, bytes,
          DkOffsetGrad<scalar_t, sum_t, HAS_DATA_OFFSETS, DEPTHWISE>{
              g, grad_offsets.data_ptr<sum_t>(),
              HAS_DATA_OFFSETS ? grad_data_offsets.data_ptr<sum_t>() : nullptr});
    });
  }

  std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> depthwise_backward(
      const at::Tensor& grad, const at::Tensor& input, const at::Tensor& space,
      const at::Tensor& offsets, const std::optional<at::Tensor>& data_offsets,
      at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
      at::IntArrayRef dilation) const {
    const Deformable d = depthwise_sizes(
        input, space, offsets, data_offsets, kernel_size, stride, padding, dilation);
    const at::Tensor x = input.contiguous(kChannelsLast), dy = grad.contiguous(kChannelsLast);
    const at::Tensor cells = by_cell(space, accumulate_dtype(input));
    const Floats floats(input, offsets, data_offsets);
    const at::Tensor grad_x = at::zeros_like(x, x.options().dtype(accumulate_dtype(x)));
    const at::Tensor grad_offsets = at::zeros_like(floats.offsets);
    const at::Tensor grad_data =
        data_offsets ? at::zeros_like(floats.data) : at::empty({0}, floats.offsets.options());
    constexpr int64_t most = 1024;  // pieces
    const int64_t all = d.batch * d.locations(),
                  locations = std::max((all + most - 1) / most, int64_t(1));
    const at::Tensor parts =
        at::zeros({(all + locations - 1) / locations, d.cells(), d.channels}, cells.options());
    if (dy.numel() > 0) {
      gradients<true>(grad_x, grad_offsets, grad_data, dy, x, cells, floats, d, 0, all);
      dispatch(x, floats.data.defined(), [&](auto scalar, auto sum, auto moved) {
        typedef decltype(scalar) scalar_t;
        typedef decltype(sum) sum_t;
        constexpr bool HAS_DATA_OFFSETS = decltype(moved)::value;
        OnCuda::warps(
            parts.size(0) * ((d.channels - 1) / (kSide * kLanesOfWarp) + 1),
            CellSums<sum_t>::bytes(d.cells()),
            DkSpaceGrad<scalar_t, sum_t, HAS_DATA_OFFSETS>{
                {floats.template sampling<scalar_t, sum_t, HAS_DATA_OFFSETS>(d, x),
                 dy.const_data_ptr<scalar_t>(), cells.const_data_ptr<sum_t>(), 0,
                 static_cast<int>(all)},
                parts.data_ptr<sum_t>(),
                static_cast<int>(locations)});
      });
    }
    return {
        grad_x.to(input.scalar_type()).contiguous(format_of(input)),
        parts.sum(0).t().reshape(space.sizes()).to(space.scalar_type()), grad_offsets, grad_data};
  }

  void columns(
      const at::Tensor& input, const at::Tensor& offsets,
      const std::optional<at::Tensor>& data_offsets, at::IntArrayRef scope,
      at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
      at::IntArrayRef dilation, int64_t begin, int64_t end, at::Tensor out) const {
    const Deformable d =
        deformable(input, offsets, data_offsets, kernel_size, scope, stride, padding, dilation);
    check_columns(input, out, d, begin, end);
    const Floats floats(input, offsets, data_offsets);
    if (out.numel() == 0) return;
    dispatch(input, floats.data.defined(), [&](auto scalar, auto sum, auto moved) {
      typedef decltype(scalar) scalar_t;
      typedef decltype(sum) sum_t;
      constexpr bool HAS_DATA_OFFSETS = decltype(moved)::value;
      OnCuda::warps(
          end - begin, CellSums<sum_t>::bytes(d.cells()),
          DkColumns<scalar_t, sum_t, HAS_DATA_OFFSETS>{
              floats.template sampling<scalar_t, sum_t, HAS_DATA_OFFSETS>(d, input),
              out.data_ptr<scalar_t>(), static_cast<int>(begin)});
    });
  }

  void columns_backward(
      const at::Tensor& grad, const at::Tensor& input, const at::Tensor& offsets,
      const std::optional<at::Tensor>& data_offsets, at::IntArrayRef scope,
      at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
      at::IntArrayRef dilation, int64_t begin, int64_t end, at::Tensor grad_input,
      at::Tensor grad_offsets, std::optional<at::Tensor> grad_data_offsets) const {
    const Deformable d =
        deformable(input, offsets, data_offsets, kernel_size, scope, stride, padding, dilation);
    const at::Tensor columns = grad.contiguous();
    check_columns(input, columns, d, begin, end);
    check_column_grads(input, offsets, data_offsets, grad_input, grad_offsets, grad_data_offsets);
    if (grad.numel() == 0) return;
    gradients<false>(
        grad_input, grad_offsets, grad_data_offsets.value_or(at::Tensor()), at::Tensor(), input,
        columns, Floats(input, offsets, data_offsets), d, begin, end);
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(mmlearnconv, CUDA, m) {
  typedef DkOperators Operators;
  m.impl("dk_depthwise", OnDevice<&Operators::depthwise>::call);
  m.impl("dk_depthwise_backward", OnDevice<&Operators::depthwise_backward>::call);
  m.impl("dk_columns", OnDevice<&Operators::columns>::call);
  m.impl("dk_columns_backward", OnDevice<&Operators::columns_backward>::call);
}

}  // namespace mmlearnconv
