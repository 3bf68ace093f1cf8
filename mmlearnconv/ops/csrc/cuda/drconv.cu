#include "drconv_kernels.cuh"

#include <torch/library.h>

namespace mmlearnconv {
TORCH_LIBRARY_IMPL(mmlearnconv, CUDA, m) {
  typedef DrconvOperators Operators;
  m.impl("drconv_features", OnDevice<&Operators::features>::call);
  m.impl("drconv_features_backward", OnDevice<&Operators::features_backward>::call);
  m.impl("drconv_inner", OnDevice<&Operators::inner>::call);
}
}  // namespace mmlearnconv
