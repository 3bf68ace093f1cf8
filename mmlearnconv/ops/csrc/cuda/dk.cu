#include "dk_kernels.cuh"

#include <torch/library.h>

namespace mmlearnconv {
TORCH_LIBRARY_IMPL(mmlearnconv, CUDA, m) {
  typedef DkOperators Operators;
  m.impl("dk_depthwise", OnDevice<&Operators::depthwise>::call);
  m.impl("dk_depthwise_backward", OnDevice<&Operators::depthwise_backward>::call);
  m.impl("dk_columns", OnDevice<&Operators::columns>::call);
  m.impl("dk_columns_backward", OnDevice<&Operators::columns_backward>::call);
}

}  // namespace mmlearnconv
