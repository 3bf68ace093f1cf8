#include "../common/dcls.h"
#include "launch.cuh"

#include <torch/library.h>

namespace mmlearnconv {
TORCH_LIBRARY_IMPL(mmlearnconv, CUDA, m) {
  m.impl("dcls_kernel", OnDevice<&dcls_kernel_with<OnCuda>>::call);
  m.impl("dcls_kernel_backward", OnDevice<&dcls_kernel_backward_with<OnCuda>>::call);
}
}  // namespace mmlearnconv
