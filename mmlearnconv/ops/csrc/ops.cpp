// The operators' schemas. ops/reference/ defines the convolutions that they compute.
#include <torch/library.h>

TORCH_LIBRARY(mmlearnconv, m) {
  m.def("dcls_kernel(Tensor weight, Tensor positions, SymInt[] size) -> Tensor");
  m.def(
      "dcls_kernel_backward(Tensor grad, Tensor weight, Tensor positions, SymInt[] size) "
      "-> (Tensor, Tensor)");
  // Where PyTorch's own is slow: on CUDA.
  m.def(
      "depthwise_forward(Tensor input, Tensor weight, Tensor? bias, SymInt[2] output_size, "
      "SymInt[2] stride, SymInt[2] padding) -> Tensor");
  m.def(
      "depthwise_input_grad(Tensor grad, Tensor weight, SymInt[2] input_size, SymInt[2] stride, "
      "SymInt[2] padding) -> Tensor");
  m.def(
      "depthwise_weight_grad(Tensor input, Tensor grad, SymInt[2] size, SymInt[2] stride, "
      "SymInt[2] padding, SymInt[2] dilation) -> Tensor");
  m.def(
      "depthwise_taps(Tensor input, Tensor values, Tensor cells, Tensor? bias, "
      "SymInt[2] output_size, SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation) -> Tensor");
  m.def(
      "depthwise_taps_backward(Tensor grad, Tensor input, Tensor values, Tensor cells, "
      "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, bool needs_input, "
      "bool needs_values) -> (Tensor, Tensor)");
  m.def(
      "dk_depthwise(Tensor input, Tensor space, Tensor offsets, Tensor? data_offsets, "
      "SymInt[2] kernel_size, SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation) -> Tensor");
  m.def(
      "dk_depthwise_backward(Tensor grad, Tensor input, Tensor space, Tensor offsets, "
      "Tensor? data_offsets, SymInt[2] kernel_size, SymInt[2] stride, SymInt[2] padding, "
      "SymInt[2] dilation) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "dk_columns(Tensor input, Tensor offsets, Tensor? data_offsets, SymInt[2] scope, "
      "SymInt[2] kernel_size, SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, "
      "SymInt begin, SymInt end, Tensor(a!) columns) -> ()");
  m.def(
      "dk_columns_backward(Tensor grad, Tensor input, Tensor offsets, Tensor? data_offsets, "
      "SymInt[2] scope, SymInt[2] kernel_size, SymInt[2] stride, SymInt[2] padding, "
      "SymInt[2] dilation, SymInt begin, SymInt end, Tensor(a!) grad_input, "
      "Tensor(b!) grad_offsets, Tensor(c!)? grad_data_offsets) -> ()");
  // On CUDA alone, where PyTorch would launch some forty small kernels.
  m.def(
      "dke_taps(Tensor positions, Tensor alpha, SymInt[2] window, bool gauss, float radius) "
      "-> (Tensor values, Tensor cells)");
  m.def(
      "dke_taps_backward(Tensor grad, Tensor positions, Tensor values, Tensor alpha, "
      "SymInt[2] window, bool gauss, float radius) -> (Tensor, Tensor)");
  m.def(
      "drconv_features(Tensor input, Tensor pattern, Tensor region, Tensor order, "
      "SymInt[2] output_size, SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, "
      "SymInt begin, SymInt end, Tensor(a!) features) -> ()");
  m.def(
      "drconv_features_backward(Tensor grad, Tensor input, Tensor pattern, Tensor region, "
      "Tensor order, SymInt[2] output_size, SymInt[2] stride, SymInt[2] padding, "
      "SymInt[2] dilation, SymInt begin, SymInt end, Tensor(a!) grad_input, "
      "Tensor(b!) grad_pattern) -> ()");
  // The same on CUDA, with all locations at once, in buckets of one region each.
  m.def(
      "drconv_sort(Tensor region, SymInt regions, SymInt size) -> (Tensor slot, Tensor location, "
      "Tensor owner)");
  m.def(
      "drconv_gather(Tensor input, Tensor pattern, Tensor region, Tensor location, "
      "SymInt[2] output_size, SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, "
      "SymInt groups) -> Tensor");
  m.def(
      "drconv_gather_backward(Tensor grad, Tensor input, Tensor pattern, Tensor region, "
      "Tensor slot, SymInt[2] output_size, SymInt[2] stride, SymInt[2] padding, "
      "SymInt[2] dilation, SymInt groups) -> (Tensor, Tensor)");
  m.def(
      "drconv_inner(Tensor products, Tensor input, Tensor pattern, SymInt[2] output_size, "
      "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt begin, SymInt end) "
      "-> Tensor");
}
