#include "../common/depthwise_taps.h"
#include "../common/dk_kernels.h"
#include "launch.cuh"

#include <torch/library.h>

namespace mmlearnconv {
TORCH_LIBRARY_IMPL(mmlearnconv, CUDA, m) {
  typedef DkOperators<OnCuda> Operators;
  m.impl("dk_depthwise", OnDevice<&Operators::depthwise>::call);
  m.impl("dk_depthwise_backward", OnDevice<&Operators::depthwise_backward>::call);
  m.impl("dk_columns", OnDevice<&Operators::columns>::call);
  m.impl("dk_columns_backward", OnDevice<&Operators::columns_backward>::call);
}

}  // namespace mmlearnconv
