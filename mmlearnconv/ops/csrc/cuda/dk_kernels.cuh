// Convolutions with resampled kernels; maps are channels_last.
#pragma once

#include "../common/depthwise_taps.h"
#include "../common/dk.h"
#include "launch.cuh"

#include <ATen/Context.h>
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <tuple>

namespace mmlearnconv {

// What every kernel here reads. Sums and offsets are sum_t.
template <typename scalar_t, typename sum_t, bool HAS_DATA_OFFSETS>
struct Sampling {
  Deformable d;
  const scalar_t* input;
  const sum_t *offsets, *data_offsets;

  C10_HOST_DEVICE DeformableTap<sum_t> tap(const Location& index, int64_t k) const {
    return deformable_tap<sum_t, HAS_DATA_OFFSETS>(
        d, offsets, data_offsets, index.n, index.y, index.x, k / d.kernel_columns,
        k % d.kernel_columns);
  }
  C10_HOST_DEVICE Location place(int64_t j) const {
    return Location::of(j, d.map.y.out_size, d.map.x.out_size);
  }
  C10_HOST_DEVICE static bool misses(const DeformableTap<sum_t>& tap) {
    return !HAS_DATA_OFFSETS && tap.map.index[0] < 0;
  }
  C10_HOST_DEVICE sum_t pixel(int64_t index, int64_t c) const {
    return index < 0 ? sum_t(0) : static_cast<sum_t>(input[index * d.channels + c]);
  }
  C10_HOST_DEVICE sum_t read(const DeformableTap<sum_t>& tap, int64_t c) const {
    if (!HAS_DATA_OFFSETS) return pixel(tap.map.index[0], c);
    sum_t value = 0;
    for (int i = 0; i < 4; ++i) value += tap.map.weight[i] * pixel(tap.map.index[i], c);
    return value;
  }
  // A tap's weight: `space` is (cell, C), the kernel space or a location's columns' gradient.
  C10_HOST_DEVICE sum_t
  weight(const DeformableTap<sum_t>& tap, const sum_t* space, int64_t c) const {
    sum_t value = 0;
    for (int i = 0; i < 4; ++i)
      value += tap.space.weight[i] * space[tap.space.index[i] * d.channels + c];
    return value;
  }
};

// Work items are locations.
template <typename scalar_t, typename sum_t, bool HAS_DATA_OFFSETS>
struct DkDepthwise {
  typedef DeformableTap<sum_t> Entry;
  typedef Sums<sum_t, 1> Total;
  Sampling<scalar_t, sum_t, HAS_DATA_OFFSETS> s;
  scalar_t* out;
  const sum_t* space;

  C10_HOST_DEVICE int64_t taps() const {
    return s.d.taps();
  }
  C10_HOST_DEVICE int64_t channels() const {
    return s.d.channels;
  }
  C10_HOST_DEVICE Entry entry(int64_t j, int64_t k) const {
    return s.tap(s.place(j), k);
  }
  C10_HOST_DEVICE Total start(int64_t, int64_t) const {
    return {};
  }
  C10_HOST_DEVICE void add(Total& total, const Entry& tap, int64_t, int64_t c) const {
    if (!s.misses(tap)) total.value[0] += s.weight(tap, space, c) * s.read(tap, c);
  }
  C10_HOST_DEVICE void store(int64_t j, int64_t c, const Total& total) const {
    out[j * s.d.channels + c] = static_cast<scalar_t>(total.value[0]);
  }
};

// Work items are locations, from `begin` on.
template <typename scalar_t, typename sum_t, bool HAS_DATA_OFFSETS>
struct DkColumns {
  typedef DeformableTap<sum_t> Entry;
  struct Total {
    scalar_t* cells;
  };
  Sampling<scalar_t, sum_t, HAS_DATA_OFFSETS> s;
  scalar_t* out;  // (location, cell, C)
  int64_t begin;

  C10_HOST_DEVICE int64_t taps() const {
    return s.d.taps();
  }
  C10_HOST_DEVICE int64_t channels() const {
    return s.d.channels;
  }
  C10_HOST_DEVICE Entry entry(int64_t i, int64_t k) const {
    return s.tap(s.place(begin + i), k);
  }
  C10_HOST_DEVICE Total start(int64_t i, int64_t c) const {
    scalar_t* const cells = out + i * s.d.cells() * s.d.channels + c;
    for (int64_t cell = 0; cell < s.d.cells(); ++cell) cells[cell * s.d.channels] = scalar_t(0);
    return {cells};
  }
  C10_HOST_DEVICE void add(Total& total, const Entry& tap, int64_t, int64_t c) const {
    if (s.misses(tap)) return;
    const sum_t value = s.read(tap, c);
    for (int n = 0; n < 4; ++n)
      total.cells[tap.space.index[n] * s.d.channels] += tap.space.weight[n] * value;
  }
  C10_HOST_DEVICE void store(int64_t, int64_t, const Total&) const {}
};

// What the gradients are computed from. If DEPTHWISE, `space` is the kernel space and `grad` the
// gradient of the output. Otherwise `space` is the gradient of the columns from location `begin`
// on, and `grad` is null.
template <typename scalar_t, typename sum_t, bool HAS_DATA_OFFSETS, bool DEPTHWISE>
struct DkGradients {
  Sampling<scalar_t, sum_t, HAS_DATA_OFFSETS> s;
  const scalar_t* grad;
  const sum_t* space;
  int64_t begin, end;

  C10_HOST_DEVICE sum_t passed(int64_t j, int64_t c) const {
    return DEPTHWISE ? static_cast<sum_t>(grad[j * s.d.channels + c]) : sum_t(1);
  }
  C10_HOST_DEVICE const sum_t* cells(int64_t j) const {
    return DEPTHWISE ? space : space + (j - begin) * s.d.cells() * s.d.channels;
  }
};

// Gradient of the input, accumulated: each pixel gathers from all outputs that read it.
template <typename scalar_t, typename sum_t, bool DEPTHWISE>
struct DkInputGrad {
  // A tap that reads the pixel, and the location that it belongs to, or -1.
  struct Entry {
    DeformableTap<sum_t> tap;
    int64_t location, padding;
  };
  typedef Sums<sum_t, 1> Total;
  DkGradients<scalar_t, sum_t, false, DEPTHWISE> g;
  sum_t* grad_input;

  C10_HOST_DEVICE int64_t taps() const {
    return g.s.d.taps();
  }
  C10_HOST_DEVICE int64_t channels() const {
    return g.s.d.channels;
  }
  C10_HOST_DEVICE Entry entry(int64_t i, int64_t k) const {
    const Deformable& d = g.s.d;
    const Location index = Location::of(i, d.map.y.size, d.map.x.size);
    const int64_t y = output_index_of(d.map.y, index.y, k / d.kernel_columns);
    const int64_t x = output_index_of(d.map.x, index.x, k % d.kernel_columns);
    const int64_t j = (index.n * d.map.y.out_size + y) * d.map.x.out_size + x;
    if (y < 0 || x < 0 || j < g.begin || j >= g.end) return {{}, -1, 0};
    return {g.s.tap({index.n, y, x}, k), j, 0};
  }
  C10_HOST_DEVICE Total start(int64_t, int64_t) const {
    return {};
  }
  C10_HOST_DEVICE void add(Total& total, const Entry& entry, int64_t, int64_t c) const {
    const int64_t j = entry.location;
    if (j >= 0) total.value[0] += g.passed(j, c) * g.s.weight(entry.tap, g.cells(j), c);
  }
  C10_HOST_DEVICE void store(int64_t i, int64_t c, const Total& total) const {
    grad_input[i * g.s.d.channels + c] += total.value[0];
  }
};

// The same with data offsets. The outputs that read a pixel are then unknown, so the locations
// scatter: with one work item per location and channel, or, if the result must be deterministic,
// one per channel, which goes through the locations in order.
template <typename scalar_t, typename sum_t, bool DEPTHWISE>
struct DkMovedInputGrad {
  DkGradients<scalar_t, sum_t, true, DEPTHWISE> g;
  sum_t* grad_input;
  bool in_order;

  C10_HOST_DEVICE void operator()(int64_t i) const {
    const Deformable& d = g.s.d;
    const int64_t c = i % d.channels, own = g.begin + i / d.channels;
    for (int64_t j = own; j < (in_order ? g.end : own + 1); ++j) {
      for (int64_t k = 0; k < d.taps(); ++k) {
        const auto tap = g.s.tap(g.s.place(j), k);
        const sum_t passed = g.passed(j, c) * g.s.weight(tap, g.cells(j), c);
        for (int i = 0; i < 4; ++i)
          if (tap.map.index[i] >= 0)
            add_shared(grad_input + tap.map.index[i] * d.channels + c, tap.map.weight[i] * passed);
      }
    }
  }
};

// Gradients of the offsets, one warp per location and tap, which sums over the channels.
template <typename scalar_t, typename sum_t, bool HAS_DATA_OFFSETS, bool DEPTHWISE>
struct DkOffsetGrad {
  typedef Sums<sum_t, HAS_DATA_OFFSETS ? 4 : 2> Slopes;
  DkGradients<scalar_t, sum_t, HAS_DATA_OFFSETS, DEPTHWISE> g;
  sum_t *grad_offsets, *grad_data_offsets;

  C10_HOST_DEVICE DeformableTap<sum_t> tap(int64_t i, int64_t* j, int64_t* k) const {
    const int64_t length = g.end - g.begin;
    *k = i / length;
    *j = g.begin + i - *k * length;
    return g.s.tap(g.s.place(*j), *k);
  }
  // Of the kernel space's offsets along y and x, and of the data's.
  C10_HOST_DEVICE Slopes sums(int64_t i, int lane) const {
    const Deformable& d = g.s.d;
    int64_t j, k;
    const auto tap = this->tap(i, &j, &k);
    const sum_t* const space = g.cells(j);
    Slopes slopes;
    if (g.s.misses(tap)) return slopes;
    for (int64_t c = lane; c < d.channels; c += kLanesOfWarp) {
      sum_t corner[4];
#pragma unroll
      for (int n = 0; n < 4; ++n) corner[n] = space[tap.space.index[n] * d.channels + c];
      const sum_t product = g.passed(j, c) * g.s.read(tap, c);
      slopes.value[0] += product * tap.space.slope_y(corner);
      slopes.value[1] += product * tap.space.slope_x(corner);
      if constexpr (HAS_DATA_OFFSETS) {
        const sum_t passed = g.passed(j, c) * g.s.weight(tap, space, c);
#pragma unroll
        for (int n = 0; n < 4; ++n) corner[n] = g.s.pixel(tap.map.index[n], c);
        slopes.value[2] += passed * tap.map.slope_y(corner);
        slopes.value[3] += passed * tap.map.slope_x(corner);
      }
    }
    return slopes;
  }
  C10_HOST_DEVICE void store(int64_t i, const Slopes& slopes) const {
    const Deformable& d = g.s.d;
    int64_t j, k;
    const auto tap = this->tap(i, &j, &k);
    const int64_t n = j / d.locations();
    const int64_t own = (n * 2 * d.taps() + 2 * k) * d.locations() + j % d.locations();
    grad_offsets[own] = tap.space.moves_y ? slopes.value[0] : sum_t(0);
    grad_offsets[own + d.locations()] = tap.space.moves_x ? slopes.value[1] : sum_t(0);
    if constexpr (HAS_DATA_OFFSETS) {
      grad_data_offsets[own] = tap.map.moves_y ? slopes.value[2] : sum_t(0);
      grad_data_offsets[own + d.locations()] = tap.map.moves_x ? slopes.value[3] : sum_t(0);
    }
  }
};

// Gradient of the kernel space: one partial sum per piece of a few locations; the caller adds them.
template <typename scalar_t, typename sum_t, bool HAS_DATA_OFFSETS>
struct DkSpaceGrad {
  DkGradients<scalar_t, sum_t, HAS_DATA_OFFSETS, true> g;
  sum_t* parts;       // (pieces, cell, C), zeros before
  int64_t locations;  // of a piece

  C10_HOST_DEVICE void operator()(int64_t i) const {
    const Deformable& d = g.s.d;
    const int64_t c = i % d.channels, piece = i / d.channels, first = piece * locations;
    const int64_t last = first + locations < g.end ? first + locations : g.end;
    sum_t* const own = parts + piece * d.cells() * d.channels + c;
    for (int64_t j = first; j < last; ++j) {
      for (int64_t k = 0; k < d.taps(); ++k) {
        const auto tap = g.s.tap(g.s.place(j), k);
        if (g.s.misses(tap)) continue;
        const sum_t product = g.passed(j, c) * g.s.read(tap, c);
        for (int i = 0; i < 4; ++i)
          own[tap.space.index[i] * d.channels] += tap.space.weight[i] * product;
      }
    }
  }
};

constexpr auto kChannelsLast = at::MemoryFormat::ChannelsLast;

struct DkOperators {
  OnCuda launch;

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
          d, x.const_data_ptr<scalar_t>(), offsets.const_data_ptr<sum_t>(),
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
        launch.with_taps(
            d.batch * d.locations(),
            DkDepthwise<scalar_t, sum_t, HAS_DATA_OFFSETS>{
                floats.template sampling<scalar_t, sum_t, HAS_DATA_OFFSETS>(d, x),
                out.data_ptr<scalar_t>(), cells.const_data_ptr<sum_t>()});
      });
    return out.contiguous(format_of(input));
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
          DEPTHWISE ? grad.const_data_ptr<scalar_t>() : nullptr, space.const_data_ptr<sum_t>(),
          begin, end};
      sum_t* const into = grad_input.data_ptr<sum_t>();
      if constexpr (HAS_DATA_OFFSETS) {
        const bool in_order = at::globalContext().deterministicAlgorithms();
        launch(
            d.channels * (in_order ? 1 : end - begin),
            DkMovedInputGrad<scalar_t, sum_t, DEPTHWISE>{g, into, in_order});
      } else {
        launch.with_taps(x.numel() / d.channels, DkInputGrad<scalar_t, sum_t, DEPTHWISE>{g, into});
      }
      launch.warps(
          (end - begin) * d.taps(),
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
    constexpr int64_t max_chunks = 256;
    const int64_t all = d.batch * d.locations(),
                  locations = std::max((all + max_chunks - 1) / max_chunks, int64_t(1));
    const at::Tensor parts =
        at::zeros({(all + locations - 1) / locations, d.cells(), d.channels}, cells.options());
    if (dy.numel() > 0) {
      gradients<true>(grad_x, grad_offsets, grad_data, dy, x, cells, floats, d, 0, all);
      dispatch(x, floats.data.defined(), [&](auto scalar, auto sum, auto moved) {
        typedef decltype(scalar) scalar_t;
        typedef decltype(sum) sum_t;
        constexpr bool HAS_DATA_OFFSETS = decltype(moved)::value;
        launch(
            parts.size(0) * d.channels,
            DkSpaceGrad<scalar_t, sum_t, HAS_DATA_OFFSETS>{
                {floats.template sampling<scalar_t, sum_t, HAS_DATA_OFFSETS>(d, x),
                 dy.const_data_ptr<scalar_t>(), cells.const_data_ptr<sum_t>(), 0, all},
                parts.data_ptr<sum_t>(),
                locations});
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
      launch.with_taps(
          end - begin, DkColumns<scalar_t, sum_t, HAS_DATA_OFFSETS>{
                           floats.template sampling<scalar_t, sum_t, HAS_DATA_OFFSETS>(d, input),
                           out.data_ptr<scalar_t>(), begin});
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

}  // namespace mmlearnconv
