// Sizes of a depthwise convolution by lists of taps.
#pragma once

#include "geometry.h"
#include "launch.h"

#include <optional>

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

// Memory format of the output: channels_last if the input is so and is not also contiguous.
inline at::MemoryFormat format_of(const at::Tensor& tensor) {
  const bool last = tensor.is_contiguous(at::MemoryFormat::ChannelsLast);
  return last && !tensor.is_contiguous() ? at::MemoryFormat::ChannelsLast
                                         : at::MemoryFormat::Contiguous;
}

}  // namespace mmlearnconv
