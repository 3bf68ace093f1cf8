// Depthwise convolution by lists of taps, one plane of the map at a time:
//   out[n, (c m), y, x] = sum over t of
//       values[c, m, t] * input[n, c, y s + i d - p, x s + j d - p],
//   with (i, j) = cells[c, m, t] and zeros outside the map.
// Each channel's plane is copied with a border of zeros and with its columns ordered by their
// remainder modulo the stride. A tap is then a single offset, and a row of outputs is a sum of
// shifted rows.

#include "../common/depthwise_taps.h"
#include "memory_format.h"
#include "vector.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace mmlearnconv {
namespace {

constexpr int64_t kMostBlocks = 6;   // vectors of a row in registers at a time
constexpr int64_t kTapsAtOnce = 8;   // taps whose sums are in registers at a time
constexpr int64_t kRowsOfBand = 16;  // rows between two roundings of such sums

template <typename T>
struct Tap {
  int64_t offset;
  T value;
  int64_t index;  // in the list it came from
};

// A plane with its border. Input element (row, column) is stored at
// (row - top) * length + (column - left) % stride * phase + (column - left) / stride.
struct Plane {
  int64_t top = 0, left = 0, rows = 0, phase = 0, stride = 1;

  int64_t length() const {
    return stride * phase;
  }
  template <typename T>
  int64_t numel() const {
    return rows * length() + kLanes<T>;  // a row's last vector may reach past the end
  }
};

// The border that a channel's taps need; `sign` -1 is for a convolution with the flipped kernel.
Plane plane_of(const Geometry& g, const int64_t* cells, int64_t count, int64_t sign) {
  constexpr int64_t far = std::numeric_limits<int64_t>::max();
  int64_t top = far, left = far, bottom = -far, right = -far;
  for (int64_t t = 0; t < count; ++t) {
    const int64_t i = sign * cells[2 * t], j = sign * cells[2 * t + 1];
    if (!g.y.reaches(i) || !g.x.reaches(j)) continue;
    top = std::min(top, g.y.first(i));
    bottom = std::max(bottom, g.y.at(g.y.out_size - 1, i));
    left = std::min(left, g.x.first(j));
    right = std::max(right, g.x.at(g.x.out_size - 1, j));
  }
  if (top == far) return {};
  return {top, left, bottom - top + 1, (right - left) / g.x.stride + 1, g.x.stride};
}

template <typename T>
void taps_of(
    std::vector<Tap<T>>& taps, const Geometry& g, const Plane& plane, const int64_t* cells,
    const T* values, int64_t count, int64_t sign) {
  taps.clear();
  for (int64_t t = 0; t < count; ++t) {
    const int64_t i = sign * cells[2 * t], j = sign * cells[2 * t + 1];
    if (!g.y.reaches(i) || !g.x.reaches(j)) continue;
    const int64_t row = g.y.first(i) - plane.top, column = g.x.first(j) - plane.left;
    const int64_t offset =
        row * plane.length() + column % plane.stride * plane.phase + column / plane.stride;
    taps.push_back({offset, values[t], t});
  }
}

template <typename T>
void fill(std::vector<T>& to, const Plane& plane, const T* from, int64_t height, int64_t width) {
  to.assign(plane.numel<T>(), T(0));
  const int64_t first = std::max(int64_t(0), -plane.top);
  const int64_t last = std::min(plane.rows, height - plane.top);
  for (int64_t row = first; row < last; ++row) {
    const T* const source = from + (row + plane.top) * width;
    for (int64_t p = 0; p < plane.stride; ++p) {
      T* const target = to.data() + row * plane.length() + p * plane.phase;
      // Columns left + p + k * stride that lie on the map.
      const int64_t start = plane.left + p, s = plane.stride;
      const int64_t begin = start < 0 ? (-start + s - 1) / s : 0;
      const int64_t end = std::min(plane.phase, width > start ? (width - start - 1) / s + 1 : 0);
      if (s == 1) {
        if (begin < end) std::copy(source + start + begin, source + start + end, target + begin);
      } else {
        for (int64_t k = begin; k < end; ++k) target[k] = source[start + k * s];
      }
    }
  }
}

// The inverse of fill: copies the plane out of its border.
template <typename T>
void unfill(T* to, const Plane& plane, const std::vector<T>& from, int64_t height, int64_t width) {
  const int64_t s = plane.stride;
  for (int64_t y = 0; y < height; ++y) {
    const int64_t row = y - plane.top;
    for (int64_t x = 0; x < width; ++x) {
      const int64_t column = x - plane.left;
      const bool held = row >= 0 && row < plane.rows && column >= 0 && column < plane.length();
      to[y * width + x] =
          held ? from[row * plane.length() + column % s * plane.phase + column / s] : T(0);
    }
  }
}

template <typename T, int BLOCKS>
MMLC_INLINE void sum_taps(
    T* out, const T* from, const Tap<T>* taps, int64_t count, int64_t last, bool add, T start) {
  typedef typename Vector<T>::type V;
  V sums[BLOCKS];
#pragma GCC unroll 8
  for (int b = 0; b < BLOCKS; ++b)
    sums[b] = add ? load(out + b * kLanes<T>, b + 1 < BLOCKS ? kLanes<T> : last) : V{} + start;
  for (int64_t t = 0; t < count; ++t) {
    const T* const source = from + taps[t].offset;
    const V value = V{} + taps[t].value;
#pragma GCC unroll 8
    for (int b = 0; b < BLOCKS; ++b) sums[b] += value * load(source + b * kLanes<T>);
  }
#pragma GCC unroll 8
  for (int b = 0; b < BLOCKS; ++b)
    store(out + b * kLanes<T>, sums[b], b + 1 < BLOCKS ? kLanes<T> : last);
}

// Computes a plane of outputs; adds to `out` if `add` is true, otherwise to `start`.
template <typename T>
MMLC_INLINE void sum_plane(
    T* out, const T* from, const Tap<T>* taps, int64_t count, int64_t height, int64_t width,
    int64_t step, bool add, T start) {
  for (int64_t y = 0; y < height; ++y, from += step, out += width) {
    for (int64_t x = 0; x < width;) {
      const int64_t left = width - x, blocks = (left + kLanes<T> - 1) / kLanes<T>;
      const int64_t last = std::min(left - (blocks - 1) * kLanes<T>, kLanes<T>);
      // Always inline: on its own it would be compiled for the oldest CPU.
      const auto sum = [&](auto with) __attribute__((always_inline)) {
        constexpr int B = decltype(with)::value;
        sum_taps<T, B>(out + x, from + x, taps, count, blocks == B ? last : kLanes<T>, add, start);
        x += B * kLanes<T>;
      };
      switch (std::min(blocks, kMostBlocks)) {
        case 6:
          sum(std::integral_constant<int, 6>{});
          break;
        case 5:
          sum(std::integral_constant<int, 5>{});
          break;
        case 4:
          sum(std::integral_constant<int, 4>{});
          break;
        case 3:
          sum(std::integral_constant<int, 3>{});
          break;
        case 2:
          sum(std::integral_constant<int, 2>{});
          break;
        default:
          sum(std::integral_constant<int, 1>{});
      }
    }
  }
}

// sums[t] += sum over the rows and columns of grad * from shifted by tap t; grad's rows end in
// zeros up to a whole vector.
template <typename T, int TAPS>
MMLC_INLINE void dot_taps(
    double* sums, const T* grad, const T* from, const Tap<T>* taps, int64_t height, int64_t columns,
    int64_t step) {
  typedef typename Vector<T>::type V;
  V parts[TAPS] = {};
  for (int64_t y = 0; y < height; ++y, grad += columns, from += step) {
    for (int64_t x = 0; x < columns; x += kLanes<T>) {
      const V g = load(grad + x);
#pragma GCC unroll 8
      for (int t = 0; t < TAPS; ++t) parts[t] += g * load(from + taps[t].offset + x);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < TAPS; ++t) sums[t] += sum<T>(parts[t]);
}

template <typename T>
MMLC_INLINE void dot_plane(
    double* sums, const T* grad, const T* from, const Tap<T>* taps, int64_t count, int64_t height,
    int64_t columns, int64_t step) {
  for (int64_t y = 0; y < height; y += kRowsOfBand) {
    const int64_t rows = std::min(kRowsOfBand, height - y);
    const T* const g = grad + y * columns;
    const T* const f = from + y * step;
    int64_t t = 0;
    for (; t + kTapsAtOnce <= count; t += kTapsAtOnce)
      dot_taps<T, kTapsAtOnce>(sums + t, g, f, taps + t, rows, columns, step);
    for (; t < count; ++t) dot_taps<T, 1>(sums + t, g, f, taps + t, rows, columns, step);
  }
}

// The transpose of sum_plane; the rows of grad end in zeros, as in dot_plane.
template <typename T>
MMLC_INLINE void scatter_plane(
    T* to, const T* grad, const Tap<T>* taps, int64_t count, int64_t height, int64_t columns,
    int64_t step) {
  typedef typename Vector<T>::type V;
  for (int64_t y = 0; y < height; ++y, grad += columns, to += step) {
    for (int64_t t = 0; t < count; ++t) {
      T* const target = to + taps[t].offset;
      const V value = V{} + taps[t].value;
      for (int64_t x = 0; x < columns; x += kLanes<T>)
        store(target + x, load(target + x) + value * load(grad + x));
    }
  }
}

#define MMLC_FOR_FLOATS(T)                                                                      \
  MMLC_FOR_EVERY_CPU void sum_plane_of(                                                         \
      T* out, const T* from, const Tap<T>* taps, int64_t count, int64_t height, int64_t width,  \
      int64_t step, bool add, T start) {                                                        \
    sum_plane<T>(out, from, taps, count, height, width, step, add, start);                      \
  }                                                                                             \
  MMLC_FOR_EVERY_CPU void dot_plane_of(                                                         \
      double* sums, const T* grad, const T* from, const Tap<T>* taps, int64_t count,            \
      int64_t height, int64_t columns, int64_t step) {                                          \
    dot_plane<T>(sums, grad, from, taps, count, height, columns, step);                         \
  }                                                                                             \
  MMLC_FOR_EVERY_CPU void scatter_plane_of(                                                     \
      T* to, const T* grad, const Tap<T>* taps, int64_t count, int64_t height, int64_t columns, \
      int64_t step) {                                                                           \
    scatter_plane<T>(to, grad, taps, count, height, columns, step);                             \
  }
MMLC_FOR_FLOATS(float)
MMLC_FOR_FLOATS(double)
#undef MMLC_FOR_FLOATS

// Channels that a thread takes at once: what a cache line of a channels_last map holds.
template <typename T>
int64_t block_of(bool last) {
  return last ? kLanes<T> : 1;
}

template <typename T>
void forward(
    const Planes<T>& out, const Planes<const T>& input, const T* values, const int64_t* cells,
    const T* bias, const TapSizes& n, const Geometry& g) {
  const int64_t block = block_of<T>(input.last), of_channel = n.multiplier * n.taps;
  at::parallel_for(0, (n.channels + block - 1) / block, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> bordered, maps, outputs;
    std::vector<Tap<T>> taps;
    for (int64_t first = begin * block; first < std::min(end * block, n.channels); first += block) {
      const int64_t count = std::min(block, n.channels - first);
      for (int64_t b = 0; b < n.batch; ++b) {
        const T* const from = input.read(maps, b, first, count);
        const int64_t target = first * n.multiplier, targets = count * n.multiplier;
        T* to = out.open(outputs, b, target, targets);
        for (int64_t i = 0; i < count; ++i) {
          const int64_t c = first + i;
          const Plane plane = plane_of(g, cells + 2 * c * of_channel, of_channel, 1);
          fill(bordered, plane, from + i * input.step(), g.y.size, g.x.size);
          for (int64_t m = 0; m < n.multiplier; ++m, to += out.step()) {
            const int64_t own = c * n.multiplier + m, list = own * n.taps;
            taps_of(taps, g, plane, cells + 2 * list, values + list, n.taps, 1);
            T start = bias ? bias[own] : T(0);
            // A NaN value must reach all outputs, also where its tap is off the map.
            for (int64_t t = 0; t < n.taps; ++t)
              if (std::isnan(values[list + t])) start = values[list + t];
            sum_plane_of(
                to, bordered.data(), taps.data(), taps.size(), g.y.out_size, g.x.out_size,
                g.y.stride * plane.length(), false, start);
          }
        }
        out.close(outputs, b, target, targets);
      }
    }
  });
}

template <typename T>
void backward(
    const Planes<T>* grad_input, T* grad_values, const Planes<const T>& grad,
    const Planes<const T>& input, const T* values, const int64_t* cells, const TapSizes& n,
    const Geometry& g) {
  const int64_t block = block_of<T>(input.last || grad.last);
  const int64_t of_channel = n.multiplier * n.taps;
  const int64_t columns = (g.x.out_size + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
  const Plane padded{0, 0, g.y.out_size, columns, 1};
  const bool plain = g.y.stride == 1 && g.x.stride == 1;
  // At unit stride the input gradient is grad convolved with the flipped kernel.
  const Geometry flipped{
      {g.y.out_size, g.y.size, 1, -g.y.padding, g.y.dilation},
      {g.x.out_size, g.x.size, 1, -g.x.padding, g.x.dilation}};
  at::parallel_for(0, (n.channels + block - 1) / block, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> bordered, gradient, target, maps, gradients, outputs;
    std::vector<Tap<T>> taps;
    std::vector<double> sums(n.taps), totals;
    for (int64_t first = begin * block; first < std::min(end * block, n.channels); first += block) {
      const int64_t count = std::min(block, n.channels - first);
      totals.assign(count * of_channel, 0.0);
      for (int64_t b = 0; b < n.batch; ++b) {
        const T* const from = grad_values ? input.read(maps, b, first, count) : nullptr;
        const T* dy = grad.read(gradients, b, first * n.multiplier, count * n.multiplier);
        T* const into = grad_input ? grad_input->open(outputs, b, first, count) : nullptr;
        for (int64_t i = 0; i < count; ++i) {
          const int64_t* const own = cells + 2 * (first + i) * of_channel;
          const Plane plane = plane_of(g, own, of_channel, 1);
          const Plane around = plain ? plane_of(flipped, own, of_channel, -1) : Plane{};
          const int64_t step = g.y.stride * plane.length();
          if (grad_values) fill(bordered, plane, from + i * input.step(), g.y.size, g.x.size);
          if (into && !plain) target.assign(plane.numel<T>(), T(0));
          for (int64_t m = 0; m < n.multiplier; ++m, dy += grad.step()) {
            const int64_t* const cell = own + 2 * m * n.taps;
            const T* const value = values + (first + i) * of_channel + m * n.taps;
            taps_of(taps, g, plane, cell, value, n.taps, 1);
            if (grad_values || !plain) fill(gradient, padded, dy, g.y.out_size, g.x.out_size);
            if (grad_values) {
              std::fill(sums.begin(), sums.end(), 0.0);
              dot_plane_of(
                  sums.data(), gradient.data(), bordered.data(), taps.data(), taps.size(),
                  g.y.out_size, columns, step);
              for (size_t t = 0; t < taps.size(); ++t)
                totals[i * of_channel + m * n.taps + taps[t].index] += sums[t];
            }
            if (!into) continue;
            if (plain) {
              taps_of(taps, flipped, around, cell, value, n.taps, -1);
              fill(gradient, around, dy, g.y.out_size, g.x.out_size);
              sum_plane_of(
                  into + i * grad_input->step(), gradient.data(), taps.data(), taps.size(),
                  g.y.size, g.x.size, around.length(), m > 0, T(0));
            } else {
              scatter_plane_of(
                  target.data(), gradient.data(), taps.data(), taps.size(), g.y.out_size, columns,
                  step);
            }
          }
          if (into && !plain)
            unfill(into + i * grad_input->step(), plane, target, g.y.size, g.x.size);
        }
        if (into) grad_input->close(outputs, b, first, count);
      }
      if (grad_values) std::copy(totals.begin(), totals.end(), grad_values + first * of_channel);
    }
  });
}

template <typename T>
at::Tensor run_forward(
    const at::Tensor& input, const at::Tensor& values, const at::Tensor& cells,
    const std::optional<at::Tensor>& bias, at::IntArrayRef output_size, const TapSizes& n,
    const Geometry& g) {
  const at::Tensor x = as_planes(input, at::CppTypeToScalarType<T>::value);
  const at::Tensor v = values.to(x.scalar_type()).contiguous(), cells_c = cells.contiguous();
  const at::Tensor b = bias ? bias->to(x.scalar_type()).contiguous() : at::empty({0}, x.options());
  const at::Tensor out = at::empty(
      {n.batch, n.channels * n.multiplier, output_size[0], output_size[1]}, x.options(),
      format_of(input));
  if (out.numel() > 0)
    forward<T>(
        planes_of<T>(out), planes_of<const T>(x), v.const_data_ptr<T>(),
        cells_c.const_data_ptr<int64_t>(), bias ? b.const_data_ptr<T>() : nullptr, n, g);
  return out.to(input.scalar_type());
}

at::Tensor depthwise_taps(
    const at::Tensor& input, const at::Tensor& values, const at::Tensor& cells,
    const std::optional<at::Tensor>& bias, at::IntArrayRef output_size, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation) {
  const TapSizes n = check_taps(input, values, cells);
  const Geometry g = geometry(input.sizes().slice(2), output_size, stride, padding, dilation);
  const bool is_double = input.scalar_type() == at::kDouble;
  check_bias(bias, n);
  return (is_double ? run_forward<double> : run_forward<float>)(input, values, cells, bias,
                                                                output_size, n, g);
}

template <typename T>
std::tuple<at::Tensor, at::Tensor> run_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& values,
    const at::Tensor& cells, bool needs_input, bool needs_values, const TapSizes& n,
    const Geometry& g) {
  const at::Tensor x = as_planes(input, at::CppTypeToScalarType<T>::value);
  const at::Tensor dy = as_planes(grad, x.scalar_type());
  const at::Tensor v = values.to(x.scalar_type()).contiguous(), cells_c = cells.contiguous();
  // A gradient that is not needed is an empty tensor.
  const bool empty = dy.numel() == 0;
  const at::Tensor dx = needs_input ? at::empty(x.sizes(), x.options(), format_of(input))
                                    : at::empty({0}, x.options());
  if (empty) dx.zero_();
  const at::Tensor dv = at::zeros(needs_values ? v.sizes() : at::IntArrayRef{0}, x.options());
  if (!empty && x.numel() > 0) {
    const auto target = needs_input ? planes_of<T>(dx) : Planes<T>{};
    backward<T>(
        needs_input ? &target : nullptr, needs_values ? dv.data_ptr<T>() : nullptr,
        planes_of<const T>(dy), planes_of<const T>(x), v.const_data_ptr<T>(),
        cells_c.const_data_ptr<int64_t>(), n, g);
  }
  return {dx.to(input.scalar_type()), dv.to(values.scalar_type())};
}

std::tuple<at::Tensor, at::Tensor> depthwise_taps_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& values,
    const at::Tensor& cells, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation, bool needs_input, bool needs_values) {
  const TapSizes n = check_taps(input, values, cells);
  check_grad(grad, input, n);
  const Geometry g =
      geometry(input.sizes().slice(2), grad.sizes().slice(2), stride, padding, dilation);
  const bool is_double = input.scalar_type() == at::kDouble;
  return (is_double ? run_backward<double> : run_backward<float>)(grad, input, values, cells,
                                                                  needs_input, needs_values, n, g);
}

}  // namespace

TORCH_LIBRARY_IMPL(mmlearnconv, CPU, m) {
  m.impl("depthwise_taps", depthwise_taps);
  m.impl("depthwise_taps_backward", depthwise_taps_backward);
}

}  // namespace mmlearnconv
