#include "../common/depthwise_taps.h"
#include "launch.cuh"

#include <torch/library.h>

namespace mmlearnconv {
TORCH_LIBRARY_IMPL(mmlearnconv, CUDA, m) {
  m.impl("depthwise_taps", OnDevice<&taps_forward<OnCuda>>::call);
  m.impl("depthwise_taps_backward", OnDevice<&taps_backward<OnCuda>>::call);
}
}  // namespace mmlearnconv
