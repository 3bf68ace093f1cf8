#include "../common/dcls.h"
#include "../common/taps.h"
#include "launch.cuh"

#include <torch/library.h>

namespace mmlearnconv {
namespace {

at::Tensor dcls_kernel(
    const at::Tensor& weight, const at::Tensor& positions, at::IntArrayRef size) {
  const c10::cuda::CUDAGuard guard(weight.device());
  return dcls_kernel_with(OnCuda{}, weight, positions, size);
}

std::tuple<at::Tensor, at::Tensor> dcls_kernel_backward(
    const at::Tensor& grad, const at::Tensor& weight, const at::Tensor& positions,
    at::IntArrayRef size) {
  const c10::cuda::CUDAGuard guard(weight.device());
  return dcls_kernel_backward_with(OnCuda{}, grad, weight, positions, size);
}

at::Tensor depthwise_weight_grad(
    const at::Tensor& input, const at::Tensor& grad, at::IntArrayRef size, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation) {
  const c10::cuda::CUDAGuard guard(input.device());
  return weight_grad(OnCuda{}, input, grad, size, stride, padding, dilation);
}

at::Tensor depthwise_taps(
    const at::Tensor& input, const at::Tensor& values, const at::Tensor& cells,
    const std::optional<at::Tensor>& bias, at::IntArrayRef output_size, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation) {
  const c10::cuda::CUDAGuard guard(input.device());
  return taps_forward(
      OnCuda{}, input, values, cells, bias, output_size, stride, padding, dilation);
}

std::tuple<at::Tensor, at::Tensor> depthwise_taps_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& values,
    const at::Tensor& cells, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation, bool needs_input, bool needs_values) {
  const c10::cuda::CUDAGuard guard(input.device());
  return taps_backward(
      OnCuda{}, grad, input, values, cells, stride, padding, dilation, needs_input, needs_values);
}

}  // namespace

TORCH_LIBRARY_IMPL(mmlearnconv, CUDA, m) {
  m.impl("dcls_kernel", dcls_kernel);
  m.impl("dcls_kernel_backward", dcls_kernel_backward);
  m.impl("depthwise_weight_grad", depthwise_weight_grad);
  m.impl("depthwise_taps", depthwise_taps);
  m.impl("depthwise_taps_backward", depthwise_taps_backward);
}

}  // namespace mmlearnconv
