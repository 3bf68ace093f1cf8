// Convolutions with resampled kernels, in channels_last:
//   depthwise  out[j, c] = sum over k of x[j, k, c] * sum over i of share[j, k, i] * space[cell, c]
//   columns    out[j, cell, c] = sum over k, i of share[j, k, i] * x[j, k, c]
// with x[j, k, c] the map under tap k, with or without data offsets. Each vector holds consecutive
// channels: at each location all channels are sampled at the same positions.

#include "../common/dk.h"
#include "memory_format.h"
#include "vector.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

namespace mmlearnconv {
namespace {

constexpr int64_t kLocations = 16;  // whose samples are worked out together

// What a run of locations reads.
template <typename T>
struct Run {
  int64_t begin, end;
  std::vector<DeformableTap<T>> taps;

  template <bool HAS_DATA_OFFSETS>
  void fill(
      const Deformable& d, const T* offsets, const T* data_offsets, int64_t from, int64_t to) {
    begin = from;
    end = to;
    taps.resize((to - from) * d.taps());
    DeformableTap<T>* tap = taps.data();
    int64_t n = from / d.locations(), y = from % d.locations() / d.map.x.out_size;
    int64_t x = from % d.map.x.out_size;
    for (int64_t j = from; j < to; ++j) {
      for (int64_t u = 0; u < d.kernel_rows; ++u)
        for (int64_t v = 0; v < d.kernel_columns; ++v)
          *tap++ = deformable_tap<T, HAS_DATA_OFFSETS>(d, offsets, data_offsets, n, y, x, u, v);
      if (++x < d.map.x.out_size) continue;
      x = 0;
      if (++y < d.map.y.out_size) continue;
      y = 0;
      ++n;
    }
  }
};

template <bool HAS_DATA_OFFSETS, typename T>
MMLC_INLINE bool misses(const DeformableTap<T>& tap) {
  return !HAS_DATA_OFFSETS && tap.map.index[0] < 0;
}

// The map under a tap: VECTORS vectors, of which the last has `last` lanes.
template <typename T, bool HAS_DATA_OFFSETS, int VECTORS>
MMLC_INLINE void read(
    typename Vector<T>::type* values, const DeformableTap<T>& tap, const T* input, int64_t channels,
    int64_t last) {
  typedef typename Vector<T>::type V;
#pragma GCC unroll 4
  for (int v = 0; v < VECTORS; ++v) {
    const int64_t lanes = v + 1 < VECTORS ? kLanes<T> : last;
    if (!HAS_DATA_OFFSETS) {
      values[v] = load(input + tap.map.index[0] * channels + v * kLanes<T>, lanes);
      continue;
    }
    values[v] = V{};
    for (int i = 0; i < 4; ++i)
      if (tap.map.index[i] >= 0)
        values[v] +=
            tap.map.weight[i] * load(input + tap.map.index[i] * channels + v * kLanes<T>, lanes);
  }
}

template <typename T, bool HAS_DATA_OFFSETS, int VECTORS>
MMLC_INLINE void depthwise_places(
    T* out, const T* input, const T* space, const Run<T>& run, const Deformable& d, int64_t last) {
  typedef typename Vector<T>::type V;
  const DeformableTap<T>* tap = run.taps.data();
  for (int64_t j = run.begin; j < run.end; ++j) {
    V totals[VECTORS] = {};
    for (int64_t k = 0; k < d.taps(); ++k, ++tap) {
      if (misses<HAS_DATA_OFFSETS>(*tap)) continue;
      V values[VECTORS];
      read<T, HAS_DATA_OFFSETS, VECTORS>(values, *tap, input, d.channels, last);
      const T* const corner[4] = {
          space + tap->space.index[0] * d.channels, space + tap->space.index[1] * d.channels,
          space + tap->space.index[2] * d.channels, space + tap->space.index[3] * d.channels};
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) {
        const int64_t lanes = v + 1 < VECTORS ? kLanes<T> : last;
        V weight{};
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i)
          weight += tap->space.weight[i] * load(corner[i] + v * kLanes<T>, lanes);
        totals[v] += weight * values[v];
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v)
      store(out + j * d.channels + v * kLanes<T>, totals[v], v + 1 < VECTORS ? kLanes<T> : last);
  }
}

template <typename T, bool HAS_DATA_OFFSETS, int VECTORS>
MMLC_INLINE void columns_places(
    T* out, const T* input, const Run<T>& run, const Deformable& d, int64_t last) {
  typedef typename Vector<T>::type V;
  const DeformableTap<T>* tap = run.taps.data();
  for (int64_t j = run.begin; j < run.end; ++j, out += d.cells() * d.channels) {
    for (int64_t cell = 0; cell < d.cells(); ++cell)
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v)
        store(out + cell * d.channels + v * kLanes<T>, V{}, v + 1 < VECTORS ? kLanes<T> : last);
    for (int64_t k = 0; k < d.taps(); ++k, ++tap) {
      if (misses<HAS_DATA_OFFSETS>(*tap)) continue;
      V values[VECTORS];
      read<T, HAS_DATA_OFFSETS, VECTORS>(values, *tap, input, d.channels, last);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) {
          const int64_t lanes = v + 1 < VECTORS ? kLanes<T> : last;
          T* const target = out + tap->space.index[i] * d.channels + v * kLanes<T>;
          store(target, load(target, lanes) + tap->space.weight[i] * values[v], lanes);
        }
      }
    }
  }
}

// The gradients at some locations for VECTORS vectors of channels. If DEPTHWISE, `space` is the
// kernel space and `grad` the gradient of the output. Otherwise `space` is the gradient of the
// columns, and `grad` is not read. The offset gradients are (location, 2 taps).
template <typename T, bool HAS_DATA_OFFSETS, bool DEPTHWISE, int VECTORS>
MMLC_INLINE void backward_places(
    T* grad_input, T* grad_space, T* grad_offsets, T* grad_data_offsets, const T* grad,
    const T* input, const T* space, const Run<T>& run, const Deformable& d, int64_t last) {
  typedef typename Vector<T>::type V;
  const DeformableTap<T>* tap = run.taps.data();
  for (int64_t j = run.begin; j < run.end; ++j) {
    for (int64_t k = 0; k < d.taps(); ++k, ++tap, grad_offsets += 2, grad_data_offsets += 2) {
      if (misses<HAS_DATA_OFFSETS>(*tap)) continue;
      V values[VECTORS], slope_y{}, slope_x{}, moved_y{}, moved_x{};
      read<T, HAS_DATA_OFFSETS, VECTORS>(values, *tap, input, d.channels, last);
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) {
        const int64_t lanes = v + 1 < VECTORS ? kLanes<T> : last, c = v * kLanes<T>;
        V corner[4], weight{};
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          corner[i] = load(space + tap->space.index[i] * d.channels + c, lanes);
          weight += tap->space.weight[i] * corner[i];
        }
        const V g = DEPTHWISE ? load(grad + j * d.channels + c, lanes) : V{} + T(1);
        const V product = g * values[v], passed = g * weight;
        slope_y += product * tap->space.slope_y(corner);
        slope_x += product * tap->space.slope_x(corner);
        if (DEPTHWISE) {
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) {
            T* const target = grad_space + tap->space.index[i] * d.channels + c;
            store(target, load(target, lanes) + tap->space.weight[i] * product, lanes);
          }
        }
        if (!HAS_DATA_OFFSETS) {
          T* const target = grad_input + tap->map.index[0] * d.channels + c;
          store(target, load(target, lanes) + passed, lanes);
          continue;
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          corner[i] = V{};
          if (tap->map.index[i] < 0) continue;
          const int64_t pixel = tap->map.index[i] * d.channels + c;
          corner[i] = load(input + pixel, lanes);
          T* const target = grad_input + pixel;
          store(target, load(target, lanes) + tap->map.weight[i] * passed, lanes);
        }
        moved_y += passed * tap->map.slope_y(corner);
        moved_x += passed * tap->map.slope_x(corner);
      }
      if (tap->space.moves_y) grad_offsets[0] += sum<T>(slope_y);
      if (tap->space.moves_x) grad_offsets[1] += sum<T>(slope_x);
      if (HAS_DATA_OFFSETS && tap->map.moves_y) grad_data_offsets[0] += sum<T>(moved_y);
      if (HAS_DATA_OFFSETS && tap->map.moves_x) grad_data_offsets[1] += sum<T>(moved_x);
    }
    if (!DEPTHWISE) space += d.cells() * d.channels;
  }
}

// The channels first..last-1, `most` vectors at a time while they are whole. These are macros,
// since a function compiled for every CPU (target_clones) cannot be a template.
#define MMLC_FOR_CHANNELS(T, most, call)   \
  for (int64_t c = first; c < last;) {     \
    if (c + most * kLanes<T> <= last) {    \
      constexpr int VECTORS = most;        \
      constexpr int64_t lanes = kLanes<T>; \
      call;                                \
      c += most * kLanes<T>;               \
    } else if (c + kLanes<T> <= last) {    \
      constexpr int VECTORS = 1;           \
      constexpr int64_t lanes = kLanes<T>; \
      call;                                \
      c += kLanes<T>;                      \
    } else {                               \
      constexpr int VECTORS = 1;           \
      const int64_t lanes = last - c;      \
      call;                                \
      c = last;                            \
    }                                      \
  }

#define MMLC_FOR_FLOATS(T)                                                                        \
  MMLC_FOR_EVERY_CPU void depthwise_of(                                                           \
      bool moved, T* out, const T* input, const T* space, const Run<T>& run, const Deformable& d, \
      int64_t first, int64_t last) {                                                              \
    if (moved) {                                                                                  \
      MMLC_FOR_CHANNELS(                                                                          \
          T, 1,                                                                                   \
          (depthwise_places<T, true, VECTORS>(out + c, input + c, space + c, run, d, lanes)))     \
    } else {                                                                                      \
      MMLC_FOR_CHANNELS(                                                                          \
          T, 4,                                                                                   \
          (depthwise_places<T, false, VECTORS>(out + c, input + c, space + c, run, d, lanes)))    \
    }                                                                                             \
  }                                                                                               \
  MMLC_FOR_EVERY_CPU void columns_of(                                                             \
      bool moved, T* out, const T* input, const Run<T>& run, const Deformable& d, int64_t first,  \
      int64_t last) {                                                                             \
    if (moved) {                                                                                  \
      MMLC_FOR_CHANNELS(                                                                          \
          T, 1, (columns_places<T, true, VECTORS>(out + c, input + c, run, d, lanes)))            \
    } else {                                                                                      \
      MMLC_FOR_CHANNELS(                                                                          \
          T, 4, (columns_places<T, false, VECTORS>(out + c, input + c, run, d, lanes)))           \
    }                                                                                             \
  }                                                                                               \
  template <bool DEPTHWISE>                                                                       \
  MMLC_FOR_EVERY_CPU void backward_of(                                                            \
      bool moved, T* grad_input, T* grad_space, T* grad_offsets, T* grad_data_offsets,            \
      const T* grad, const T* input, const T* space, const Run<T>& run, const Deformable& d,      \
      int64_t first, int64_t last) {                                                              \
    if (moved) {                                                                                  \
      MMLC_FOR_CHANNELS(                                                                          \
          T, 2,                                                                                   \
          (backward_places<T, true, DEPTHWISE, VECTORS>(                                          \
              grad_input + c, grad_space + c, grad_offsets, grad_data_offsets, grad + c,          \
              input + c, space + c, run, d, lanes)))                                              \
    } else {                                                                                      \
      MMLC_FOR_CHANNELS(                                                                          \
          T, 2,                                                                                   \
          (backward_places<T, false, DEPTHWISE, VECTORS>(                                         \
              grad_input + c, grad_space + c, grad_offsets, grad_data_offsets, grad + c,          \
              input + c, space + c, run, d, lanes)))                                              \
    }                                                                                             \
  }
MMLC_FOR_FLOATS(float)
MMLC_FOR_FLOATS(double)
#undef MMLC_FOR_FLOATS
#undef MMLC_FOR_CHANNELS

constexpr auto kLast = at::MemoryFormat::ChannelsLast;

// Float tensors of a call, as the loops read them.
template <typename T>
struct Offsets {
  at::Tensor space, map;

  Offsets(const at::Tensor& offsets, const std::optional<at::Tensor>& data_offsets)
      : space(offsets.to(at::CppTypeToScalarType<T>::value).contiguous()),
        map(data_offsets ? data_offsets->to(space.scalar_type()).contiguous() : at::Tensor()) {}

  bool moved() const {
    return map.defined();
  }
  void fill(Run<T>& run, const Deformable& d, int64_t from, int64_t to) const {
    if (moved()) {
      run.template fill<true>(d, space.const_data_ptr<T>(), map.const_data_ptr<T>(), from, to);
    } else {
      run.template fill<false>(d, space.const_data_ptr<T>(), nullptr, from, to);
    }
  }
};

// Sums the offset gradients of all blocks of channels and writes them to (N, 2 taps, H', W').
template <typename T>
void sum_blocks(
    const at::Tensor& to, const at::Tensor& blocks, const Deformable& d, int64_t begin,
    int64_t end) {
  const T* const from = blocks.const_data_ptr<T>();
  T* const out = to.data_ptr<T>();
  const int64_t offset_channels = 2 * d.taps(), size = (end - begin) * offset_channels;
  at::parallel_for(begin, end, 64, [&](int64_t first, int64_t last) {
    for (int64_t j = first; j < last; ++j) {
      for (int64_t m = 0; m < offset_channels; ++m) {
        T total = 0;
        for (int64_t b = 0; b < blocks.size(0); ++b)
          total += from[b * size + (j - begin) * offset_channels + m];
        out[(j / d.locations() * offset_channels + m) * d.locations() + j % d.locations()] = total;
      }
    }
  });
}

// The gradients at locations begin..end-1; a thread has a block of channels to itself.
template <typename T, bool DEPTHWISE>
void backward(
    T* grad_input, T* grad_space, const at::Tensor& grad_offsets,
    const at::Tensor& grad_data_offsets, const T* grad, const T* input, const T* space,
    const Offsets<T>& offsets, const Deformable& d, int64_t begin, int64_t end) {
  constexpr int64_t block = 2 * kLanes<T>;
  const int64_t blocks = (d.channels + block - 1) / block, offset_channels = 2 * d.taps();
  const at::Tensor parts =
      at::zeros({blocks, end - begin, offset_channels}, grad_offsets.options());
  const at::Tensor moved_parts = at::zeros(
      {offsets.moved() ? blocks : 0, end - begin, offset_channels}, grad_offsets.options());
  T* const of_space = parts.data_ptr<T>();
  T* const of_map = moved_parts.data_ptr<T>();
  at::parallel_for(0, blocks, 1, [&](int64_t from, int64_t to) {
    Run<T> run;
    for (int64_t j = begin; j < end; j += kLocations) {
      offsets.fill(run, d, j, std::min(j + kLocations, end));
      for (int64_t b = from; b < to; ++b) {
        const int64_t first = b * block, last = std::min(first + block, d.channels);
        const int64_t block_offset = (b * (end - begin) + j - begin) * offset_channels;
        backward_of<DEPTHWISE>(
            offsets.moved(), grad_input, grad_space, of_space + block_offset, of_map + block_offset,
            grad, input, DEPTHWISE ? space : space + (j - begin) * d.cells() * d.channels, run, d,
            first, last);
      }
    }
  });
  sum_blocks<T>(grad_offsets, parts, d, begin, end);
  if (offsets.moved()) sum_blocks<T>(grad_data_offsets, moved_parts, d, begin, end);
}

// The kernel space (C, 1, rows, columns) as (cell, C).
template <typename T>
at::Tensor space_by_cell(const at::Tensor& space) {
  return space.to(at::CppTypeToScalarType<T>::value).flatten(1).t().contiguous();
}

template <typename T>
at::Tensor depthwise(
    const at::Tensor& input, const at::Tensor& space, const Offsets<T>& offsets,
    const Deformable& d) {
  const at::Tensor x = in_format<T>(input, kLast), cells = space_by_cell<T>(space);
  const at::Tensor out =
      at::empty({d.batch, d.channels, d.map.y.out_size, d.map.x.out_size}, x.options(), kLast);
  const int64_t locations = d.batch * d.locations();
  if (out.numel() > 0) {
    at::parallel_for(
        0, (locations + kLocations - 1) / kLocations, 1, [&](int64_t begin, int64_t end) {
          Run<T> run;
          for (int64_t j = begin * kLocations; j < std::min(end * kLocations, locations);
               j += kLocations) {
            offsets.fill(run, d, j, std::min(j + kLocations, locations));
            depthwise_of(
                offsets.moved(), out.data_ptr<T>(), x.const_data_ptr<T>(),
                cells.const_data_ptr<T>(), run, d, 0, d.channels);
          }
        });
  }
  return in_format<T>(out, format_of(input)).to(input.scalar_type());
}

at::Tensor dk_depthwise(
    const at::Tensor& input, const at::Tensor& space, const at::Tensor& offsets,
    const std::optional<at::Tensor>& data_offsets, at::IntArrayRef kernel_size,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation) {
  const Deformable d =
      depthwise_sizes(input, space, offsets, data_offsets, kernel_size, stride, padding, dilation);
  if (input.scalar_type() == at::kDouble)
    return depthwise<double>(input, space, {offsets, data_offsets}, d);
  return depthwise<float>(input, space, {offsets, data_offsets}, d);
}

typedef std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> Gradients;

template <typename T>
Gradients depthwise_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& space,
    const Offsets<T>& offsets, const Deformable& d) {
  const at::Tensor x = in_format<T>(input, kLast), dy = in_format<T>(grad, kLast);
  const at::Tensor cells = space_by_cell<T>(space);
  const at::Tensor dx = at::zeros_like(x), dcells = at::zeros_like(cells);
  const at::Tensor doffsets = at::zeros_like(offsets.space);
  const at::Tensor dmap =
      offsets.moved() ? at::zeros_like(offsets.map) : at::empty({0}, x.options());
  if (dy.numel() > 0)
    backward<T, true>(
        dx.data_ptr<T>(), dcells.data_ptr<T>(), doffsets, dmap, dy.const_data_ptr<T>(),
        x.const_data_ptr<T>(), cells.const_data_ptr<T>(), offsets, d, 0, d.batch * d.locations());
  return {
      in_format<T>(dx, format_of(input)).to(input.scalar_type()),
      dcells.t().reshape(space.sizes()).to(space.scalar_type()).contiguous(), doffsets, dmap};
}

Gradients dk_depthwise_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& space,
    const at::Tensor& offsets, const std::optional<at::Tensor>& data_offsets,
    at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation) {
  const Deformable d =
      depthwise_sizes(input, space, offsets, data_offsets, kernel_size, stride, padding, dilation);
  if (input.scalar_type() == at::kDouble)
    return depthwise_backward<double>(grad, input, space, {offsets, data_offsets}, d);
  return depthwise_backward<float>(grad, input, space, {offsets, data_offsets}, d);
}

template <typename T>
void columns(
    const at::Tensor& out, const at::Tensor& input, const Offsets<T>& offsets, const Deformable& d,
    int64_t begin, int64_t end) {
  const int64_t runs = (end - begin + kLocations - 1) / kLocations;
  at::parallel_for(0, runs, 1, [&](int64_t from, int64_t to) {
    Run<T> run;
    for (int64_t r = from; r < to; ++r) {
      const int64_t j = begin + r * kLocations;
      offsets.fill(run, d, j, std::min(j + kLocations, end));
      columns_of(
          offsets.moved(), out.data_ptr<T>() + (j - begin) * d.cells() * d.channels,
          input.const_data_ptr<T>(), run, d, 0, d.channels);
    }
  });
}

void dk_columns(
    const at::Tensor& input, const at::Tensor& offsets,
    const std::optional<at::Tensor>& data_offsets, at::IntArrayRef scope,
    at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation, int64_t begin, int64_t end, at::Tensor out) {
  const Deformable d =
      deformable(input, offsets, data_offsets, kernel_size, scope, stride, padding, dilation);
  check_columns(input, out, d, begin, end);
  if (out.numel() == 0) return;
  if (input.scalar_type() == at::kDouble) {
    columns<double>(out, input, {offsets, data_offsets}, d, begin, end);
  } else {
    columns<float>(out, input, {offsets, data_offsets}, d, begin, end);
  }
}

void dk_columns_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& offsets,
    const std::optional<at::Tensor>& data_offsets, at::IntArrayRef scope,
    at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation, int64_t begin, int64_t end, at::Tensor grad_input,
    at::Tensor grad_offsets, std::optional<at::Tensor> grad_data_offsets) {
  const Deformable d =
      deformable(input, offsets, data_offsets, kernel_size, scope, stride, padding, dilation);
  check_columns(input, grad, d, begin, end);
  check_column_grads(input, offsets, data_offsets, grad_input, grad_offsets, grad_data_offsets);
  if (grad.numel() == 0) return;
  const auto run = [&](auto zero) {
    typedef decltype(zero) T;
    const at::Tensor columns = grad.contiguous();
    backward<T, false>(
        grad_input.data_ptr<T>(), nullptr, grad_offsets, grad_data_offsets.value_or(at::Tensor()),
        nullptr, input.const_data_ptr<T>(), columns.const_data_ptr<T>(),
        Offsets<T>(offsets, data_offsets), d, begin, end);
  };
  if (input.scalar_type() == at::kDouble) {
    run(0.0);
  } else {
    run(0.0f);
  }
}

}  // namespace

TORCH_LIBRARY_IMPL(mmlearnconv, CPU, m) {
  m.impl("dk_depthwise", dk_depthwise);
  m.impl("dk_depthwise_backward", dk_depthwise_backward);
  m.impl("dk_columns", dk_columns);
  m.impl("dk_columns_backward", dk_columns_backward);
}

}  // namespace mmlearnconv
