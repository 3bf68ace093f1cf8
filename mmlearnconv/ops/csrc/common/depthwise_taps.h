// Depthwise convolution by lists of taps, one work item per output.
#pragma once

#include "geometry.h"
#include "launch.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <optional>
#include <tuple>

namespace mmlearnconv {

struct TapSizes {
  int64_t batch, channels, multiplier, taps;
};

inline TapSizes check_taps(
    const at::Tensor& input, const at::Tensor& values, const at::Tensor& cells) {
  TORCH_CHECK(input.dim() == 4, "depthwise_taps: input ", input.sizes(), " must be (N, C, H, W)");
  TORCH_CHECK(
      values.dim() == 3 && values.size(0) == input.size(1), "depthwise_taps: values ",
      values.sizes(), " must be (C, multiplier, taps), for input ", input.sizes());
  TORCH_CHECK(
      cells.dim() == 4 && cells.sizes().slice(0, 3) == values.sizes() && cells.size(3) == 2 &&
          cells.scalar_type() == at::kLong,
      "depthwise_taps: cells ", cells.sizes(), " of ", cells.scalar_type(),
      " must be (C, multiplier, taps, 2) of Long, for values ", values.sizes());
  return {input.size(0), input.size(1), values.size(1), values.size(2)};
}

inline void check_bias(const std::optional<at::Tensor>& bias, const TapSizes& n) {
  TORCH_CHECK(
      !bias || bias->sizes() == at::IntArrayRef{n.channels * n.multiplier}, "depthwise_taps: bias ",
      bias ? bias->sizes() : at::IntArrayRef{}, " must be (", n.channels * n.multiplier, ")");
}

inline void check_grad(const at::Tensor& grad, const at::Tensor& input, const TapSizes& n) {
  TORCH_CHECK(
      grad.dim() == 4 && grad.size(0) == n.batch && grad.size(1) == n.channels * n.multiplier &&
          grad.scalar_type() == input.scalar_type(),
      "depthwise_taps_backward: grad ", grad.sizes(), " of ", grad.scalar_type(),
      " does not fit input ", input.sizes(), " of ", input.scalar_type(), " with ", n.multiplier,
      " outputs per channel");
}

inline void check_weight_grad(
    const at::Tensor& input, const at::Tensor& grad, at::IntArrayRef size, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation) {
  TORCH_CHECK(
      input.dim() == 4 && grad.dim() == 4 && input.size(0) == grad.size(0) &&
          input.size(1) == grad.size(1),
      "depthwise_weight_grad: input ", input.sizes(), " and grad ", grad.sizes(),
      " must be (N, C, H, W) and (N, C, H', W')");
  TORCH_CHECK(
      input.scalar_type() == grad.scalar_type(), "depthwise_weight_grad: input is ",
      input.scalar_type(), " and grad ", grad.scalar_type());
  for (int64_t axis = 0; axis < 2; ++axis) {
    const int64_t reach = dilation[axis] * (size[axis] - 1) + 1;
    const int64_t expected = (input.size(2 + axis) + 2 * padding[axis] - reach) / stride[axis] + 1;
    TORCH_CHECK(
        grad.size(2 + axis) == expected, "depthwise_weight_grad: grad ", grad.sizes(),
        " is not what a kernel of ", size, " gives for input ", input.sizes());
  }
}

// The strides of a map's images, channels, rows and columns, in elements.
struct Strides {
  int64_t n, c, y, x;

  explicit Strides(const at::Tensor& map)
      : n(map.stride(0)), c(map.stride(1)), y(map.stride(2)), x(map.stride(3)) {}
  C10_HOST_DEVICE int64_t at(int64_t image, int64_t channel, int64_t row, int64_t column) const {
    return image * n + channel * c + row * y + column * x;
  }
};

// Image, channel, row and column of element i of a map, counted in memory order.
struct MapIndex {
  int64_t n, c, y, x;

  C10_HOST_DEVICE MapIndex(int64_t i, int64_t channels, int64_t height, int64_t width, bool last) {
    if (last) {
      c = i % channels;
      i /= channels;
    }
    x = i % width;
    y = i / width % height;
    i /= width * height;
    if (!last) {
      c = i % channels;
      i /= channels;
    }
    n = i;
  }
};

template <typename scalar_t, typename sum_t>
struct TapsForward {
  scalar_t* out;
  const scalar_t* input;
  const sum_t *values, *bias;
  const int64_t* cells;
  TapSizes n;
  Geometry g;
  Strides from, to;
  bool last;

  C10_HOST_DEVICE void operator()(int64_t i) const {
    const MapIndex index(i, n.channels * n.multiplier, g.y.out_size, g.x.out_size, last);
    sum_t total = bias ? bias[index.c] : sum_t(0);
    for (int64_t t = index.c * n.taps; t < (index.c + 1) * n.taps; ++t) {
      const int64_t row = g.y.at(index.y, cells[2 * t]), column = g.x.at(index.x, cells[2 * t + 1]);
      if (g.y.holds(row) && g.x.holds(column))
        total += values[t] *
                 static_cast<sum_t>(input[from.at(index.n, index.c / n.multiplier, row, column)]);
      else if (values[t] != values[t])
        total = values[t];
    }
    out[to.at(index.n, index.c, index.y, index.x)] = static_cast<scalar_t>(total);
  }
};

template <typename scalar_t, typename sum_t>
struct TapsInputGrad {
  scalar_t* grad_input;
  const scalar_t* grad;
  const sum_t* values;
  const int64_t* cells;
  TapSizes n;
  Geometry g;
  Strides from, to;
  bool last;

  C10_HOST_DEVICE void operator()(int64_t i) const {
    const MapIndex index(i, n.channels, g.y.size, g.x.size, last);
    sum_t total = 0;
    for (int64_t m = index.c * n.multiplier; m < (index.c + 1) * n.multiplier; ++m) {
      for (int64_t t = m * n.taps; t < (m + 1) * n.taps; ++t) {
        const int64_t y = output_index_of(g.y, index.y, cells[2 * t]),
                      x = output_index_of(g.x, index.x, cells[2 * t + 1]);
        if (y >= 0 && x >= 0)
          total += values[t] * static_cast<sum_t>(grad[from.at(index.n, m, y, x)]);
      }
    }
    grad_input[to.at(index.n, index.c, index.y, index.x)] = static_cast<scalar_t>(total);
  }
};

// Gradient of the values: one partial sum per piece of a few output rows; the caller adds them up.
template <typename scalar_t, typename sum_t>
struct TapsValueGrad {
  sum_t* parts;  // (pieces, C * multiplier * taps)
  const scalar_t *grad, *input;
  const int64_t* cells;
  TapSizes n;
  Geometry g;
  Strides of_grad, of_input;
  int64_t rows;  // of a piece

  C10_HOST_DEVICE void operator()(int64_t i) const {
    const int64_t lists = n.channels * n.multiplier, t = i % (lists * n.taps);
    const int64_t m = t / n.taps, begin = i / (lists * n.taps) * rows;
    const int64_t all = n.batch * g.y.out_size, end = begin + rows < all ? begin + rows : all;
    sum_t total = 0;
    for (int64_t r = begin; r < end; ++r) {
      const int64_t image = r / g.y.out_size, y = r % g.y.out_size;
      const int64_t row = g.y.at(y, cells[2 * t]);
      if (!g.y.holds(row)) continue;
      for (int64_t x = 0; x < g.x.out_size; ++x) {
        const int64_t column = g.x.at(x, cells[2 * t + 1]);
        if (g.x.holds(column))
          total += static_cast<sum_t>(grad[of_grad.at(image, m, y, x)]) *
                   static_cast<sum_t>(input[of_input.at(image, m / n.multiplier, row, column)]);
      }
    }
    parts[i] = total;
  }
};

// Memory format of the output: channels_last if the input is so and is not also contiguous.
inline at::MemoryFormat format_of(const at::Tensor& tensor) {
  const bool last = tensor.is_contiguous(at::MemoryFormat::ChannelsLast);
  return last && !tensor.is_contiguous() ? at::MemoryFormat::ChannelsLast
                                         : at::MemoryFormat::Contiguous;
}

template <typename Launch>
at::Tensor taps_forward(
    const Launch& launch, const at::Tensor& input, const at::Tensor& values,
    const at::Tensor& cells, const std::optional<at::Tensor>& bias, at::IntArrayRef output_size,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation) {
  const TapSizes n = check_taps(input, values, cells);
  check_bias(bias, n);
  const Geometry g = geometry(input.sizes().slice(2), output_size, stride, padding, dilation);
  const auto format = format_of(input);
  const at::Tensor v = values.to(accumulate_dtype(input)).contiguous(),
                   cells_c = cells.contiguous();
  const at::Tensor b = bias ? bias->to(accumulate_dtype(input)).contiguous() : at::Tensor();
  const at::Tensor out = at::empty(
      {n.batch, n.channels * n.multiplier, output_size[0], output_size[1]}, input.options(),
      format);
  if (out.numel() == 0) return out;
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, input.scalar_type(), "depthwise_taps", [&] {
        using sum_t = at::opmath_type<scalar_t>;
        launch(
            out.numel(), TapsForward<scalar_t, sum_t>{
                             out.data_ptr<scalar_t>(), input.const_data_ptr<scalar_t>(),
                             v.const_data_ptr<sum_t>(), bias ? b.const_data_ptr<sum_t>() : nullptr,
                             cells_c.const_data_ptr<int64_t>(), n, g, Strides(input), Strides(out),
                             format == at::MemoryFormat::ChannelsLast});
      });
  return out;
}

// Gradient of the values, in the dtype of the sums, for lists of cells.
template <typename Launch>
at::Tensor taps_value_grad(
    const Launch& launch, const at::Tensor& grad, const at::Tensor& input, const at::Tensor& cells,
    const TapSizes& n, const Geometry& g) {
  constexpr int64_t max_chunks = 64;
  const int64_t rows = std::max((n.batch * g.y.out_size + max_chunks - 1) / max_chunks, int64_t(1));
  const int64_t pieces = (n.batch * g.y.out_size + rows - 1) / rows;
  const at::Tensor parts = at::empty(
      {pieces, n.channels, n.multiplier, n.taps}, input.options().dtype(accumulate_dtype(input)));
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, input.scalar_type(), "depthwise_taps_backward", [&] {
        using sum_t = at::opmath_type<scalar_t>;
        if (parts.numel() > 0)
          launch(
              parts.numel(), TapsValueGrad<scalar_t, sum_t>{
                                 parts.data_ptr<sum_t>(), grad.const_data_ptr<scalar_t>(),
                                 input.const_data_ptr<scalar_t>(), cells.const_data_ptr<int64_t>(),
                                 n, g, Strides(grad), Strides(input), rows});
      });
  return parts.sum(0);
}

template <typename Launch>
std::tuple<at::Tensor, at::Tensor> taps_backward(
    const Launch& launch, const at::Tensor& grad, const at::Tensor& input, const at::Tensor& values,
    const at::Tensor& cells, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation, bool needs_input, bool needs_values) {
  const TapSizes n = check_taps(input, values, cells);
  check_grad(grad, input, n);
  const Geometry g =
      geometry(input.sizes().slice(2), grad.sizes().slice(2), stride, padding, dilation);
  const at::Tensor cells_c = cells.contiguous();
  at::Tensor grad_input = at::empty({0}, input.options());
  at::Tensor grad_values = at::empty({0}, values.options());
  if (needs_input) {
    const auto format = format_of(input);
    grad_input = at::empty(input.sizes(), input.options(), format);
    const at::Tensor v = values.to(accumulate_dtype(input)).contiguous();
    AT_DISPATCH_FLOATING_TYPES_AND2(
        at::kHalf, at::kBFloat16, input.scalar_type(), "depthwise_taps_backward", [&] {
          using sum_t = at::opmath_type<scalar_t>;
          if (input.numel() > 0)
            launch(
                input.numel(),
                TapsInputGrad<scalar_t, sum_t>{
                    grad_input.data_ptr<scalar_t>(), grad.const_data_ptr<scalar_t>(),
                    v.const_data_ptr<sum_t>(), cells_c.const_data_ptr<int64_t>(), n, g,
                    Strides(grad), Strides(grad_input), format == at::MemoryFormat::ChannelsLast});
        });
  }
  if (needs_values)
    grad_values = taps_value_grad(launch, grad, input, cells_c, n, g).to(values.scalar_type());
  return {grad_input, grad_values};
}

// Weight gradient of a depthwise convolution: taps on all of the kernel's cells.
template <typename Launch>
at::Tensor weight_grad(
    const Launch& launch, const at::Tensor& input, const at::Tensor& grad, at::IntArrayRef size,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation) {
  check_weight_grad(input, grad, size, stride, padding, dilation);
  const auto whole = input.options().dtype(at::kLong);
  const at::Tensor rows = at::arange(size[0], whole).repeat_interleave(size[1]);
  const at::Tensor columns = at::arange(size[1], whole).repeat({size[0]});
  const TapSizes n{input.size(0), input.size(1), 1, size[0] * size[1]};
  const at::Tensor cells =
      at::stack({rows, columns}, 1).expand({n.channels, n.taps, 2}).contiguous();
  const Geometry g =
      geometry(input.sizes().slice(2), grad.sizes().slice(2), stride, padding, dilation);
  return taps_value_grad(launch, grad, input, cells, n, g)
      .view({n.channels, 1, size[0], size[1]})
      .to(input.scalar_type());
}

}  // namespace mmlearnconv
