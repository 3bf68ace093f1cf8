// Weight gradient of a depthwise convolution, in channels_last:
//   out[c, u, v] = sum over n, y, x of grad[n, y, x, c] * input[n, y s + u d - p, x s + v d - p, c]
// Each vector holds consecutive channels. The sums of a few taps of a kernel row stay in registers
// while a row of the map is read. Bands of rows are summed separately; their sums are added in an
// order that does not depend on the number of threads.

#include "../common/depthwise_taps.h"
#include "vector.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>

namespace mmlearnconv {
namespace {

constexpr int64_t kMostTaps = 9;  // in registers at a time
constexpr int64_t kRowsOfBand = 16;

struct Sizes {
  int64_t channels, height, width, out_height, out_width;
  int64_t rows, columns;  // of the kernel
  int64_t stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x;
};

// Adds a row of the map to taps first..first+TAPS-1 of a kernel row.
template <typename T, int TAPS>
MMLC_INLINE void add_row(
    T* sums, const T* grad, const T* input, const Sizes& g, int64_t first, int64_t lanes) {
  typedef typename Vector<T>::type V;
  V taps[TAPS];
  for (int t = 0; t < TAPS; ++t) std::memcpy(&taps[t], sums + t * kLanes<T>, sizeof(V));
  const int64_t offset = first * g.dilation_x - g.padding_x;
  const int64_t last = offset + (TAPS - 1) * g.dilation_x;
  // Locations at which all of the taps lie on the map, between those at its edges.
  int64_t begin = offset < 0 ? (-offset + g.stride_x - 1) / g.stride_x : 0;
  int64_t end = g.width > last ? (g.width - last - 1) / g.stride_x + 1 : 0;
  end = std::min(end, g.out_width);
  begin = std::min(begin, std::max(end, int64_t(0)));
  end = std::max(end, begin);
  for (int64_t x = 0; x < g.out_width; ++x) {
    if (x == begin && begin < end) {
      const T* column = input + (x * g.stride_x + offset) * g.channels;
      for (; x < end; ++x, column += g.stride_x * g.channels) {
        const V weight = load(grad + x * g.channels, lanes);
        for (int t = 0; t < TAPS; ++t)
          taps[t] += weight * load(column + t * g.dilation_x * g.channels, lanes);
      }
      if (x == g.out_width) break;
    }
    const V weight = load(grad + x * g.channels, lanes);
    for (int t = 0; t < TAPS; ++t) {
      const int64_t column = x * g.stride_x + offset + t * g.dilation_x;
      if (column >= 0 && column < g.width)
        taps[t] += weight * load(input + column * g.channels, lanes);
    }
  }
  for (int t = 0; t < TAPS; ++t) std::memcpy(sums + t * kLanes<T>, &taps[t], sizeof(V));
}

template <typename T>
MMLC_INLINE void add_band(
    T* sums, const T* grad, const T* input, const Sizes& g, int64_t from, int64_t to,
    int64_t lanes) {
  for (int64_t y = from; y < to; ++y) {
    for (int64_t u = 0; u < g.rows; ++u) {
      const int64_t row = y * g.stride_y + u * g.dilation_y - g.padding_y;
      if (row < 0 || row >= g.height) continue;
      const T* grad_row = grad + y * g.out_width * g.channels;
      const T* input_row = input + row * g.width * g.channels;
      for (int64_t v = 0; v < g.columns;) {
        T* target = sums + (u * g.columns + v) * kLanes<T>;
        const int64_t left = g.columns - v;
        if (left >= kMostTaps) {
          add_row<T, kMostTaps>(target, grad_row, input_row, g, v, lanes);
          v += kMostTaps;
        } else if (left >= 4) {
          add_row<T, 4>(target, grad_row, input_row, g, v, lanes);
          v += 4;
        } else {
          add_row<T, 1>(target, grad_row, input_row, g, v, lanes);
          v += 1;
        }
      }
    }
  }
}

MMLC_FOR_EVERY_CPU void whole_vectors(
    float* sums, const float* grad, const float* input, const Sizes& g, int64_t from, int64_t to) {
  add_band<float>(sums, grad, input, g, from, to, kLanes<float>);
}

MMLC_FOR_EVERY_CPU void whole_vectors(
    double* sums, const double* grad, const double* input, const Sizes& g, int64_t from,
    int64_t to) {
  add_band<double>(sums, grad, input, g, from, to, kLanes<double>);
}

template <typename T>
void weight_grad(T* out, const T* grad, const T* input, const Sizes& g, int64_t batch) {
  const int64_t blocks = (g.channels + kLanes<T> - 1) / kLanes<T>;
  const int64_t bands = (g.out_height + kRowsOfBand - 1) / kRowsOfBand;
  const int64_t cells = g.rows * g.columns, size = cells * kLanes<T>;
  const int64_t parts = batch * bands;
  const auto partial = at::zeros({blocks * parts, size}, at::CppTypeToScalarType<T>::value);
  T* const sums = partial.template data_ptr<T>();
  at::parallel_for(0, blocks * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t channel = task / parts * kLanes<T>, n = task % parts / bands;
      const int64_t from = task % bands * kRowsOfBand;
      const int64_t to = std::min(from + kRowsOfBand, g.out_height);
      const int64_t lanes = std::min(kLanes<T>, g.channels - channel);
      const T* const grad_at = grad + n * g.out_height * g.out_width * g.channels + channel;
      const T* const input_at = input + n * g.height * g.width * g.channels + channel;
      if (lanes == kLanes<T>) {
        whole_vectors(sums + task * size, grad_at, input_at, g, from, to);
      } else {
        add_band<T>(sums + task * size, grad_at, input_at, g, from, to, lanes);
      }
    }
  });
  at::parallel_for(0, g.channels, 16, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const T* const from = sums + c / kLanes<T> * parts * size + c % kLanes<T>;
      for (int64_t cell = 0; cell < cells; ++cell) {
        T sum = 0;
        for (int64_t part = 0; part < parts; ++part) sum += from[part * size + cell * kLanes<T>];
        out[c * cells + cell] = sum;
      }
    }
  });
}

at::Tensor depthwise_weight_grad(
    const at::Tensor& input, const at::Tensor& grad, at::IntArrayRef size, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation) {
  check_weight_grad(input, grad, size, stride, padding, dilation);
  const auto x = input.contiguous(at::MemoryFormat::ChannelsLast);
  const auto dy = grad.contiguous(at::MemoryFormat::ChannelsLast);
  const auto out = at::empty({input.size(1), 1, size[0], size[1]}, input.options());
  const Sizes g{input.size(1), input.size(2), input.size(3), grad.size(2), grad.size(3),
                size[0],       size[1],       stride[0],     stride[1],    padding[0],
                padding[1],    dilation[0],   dilation[1]};
  if (input.scalar_type() == at::kFloat) {
    weight_grad(out.data_ptr<float>(), dy.data_ptr<float>(), x.data_ptr<float>(), g, x.size(0));
  } else {
    TORCH_CHECK(
        input.scalar_type() == at::kDouble, "depthwise_weight_grad: ", input.scalar_type(),
        " is neither float32 nor float64");
    weight_grad(out.data_ptr<double>(), dy.data_ptr<double>(), x.data_ptr<double>(), g, x.size(0));
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(mmlearnconv, CPU, m) {
  m.impl("depthwise_weight_grad", depthwise_weight_grad);
}

}  // namespace mmlearnconv
