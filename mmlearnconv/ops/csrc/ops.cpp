// The operators' schemas. What they compute stands in ops/reference.py.
#include <torch/library.h>

TORCH_LIBRARY(mmlearnconv, m) {
  m.def(
      "depthwise_weight_grad(Tensor input, Tensor grad, SymInt[2] size, SymInt[2] stride, "
      "SymInt[2] padding, SymInt[2] dilation) -> Tensor");
}
