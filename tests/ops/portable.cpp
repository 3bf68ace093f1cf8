// The CUDA kernels, one index after the other on the CPU, in place of its own kernels.
#include "mmlearnconv/ops/csrc/common/dcls.h"
#include "mmlearnconv/ops/csrc/common/depthwise_taps.h"
#include "mmlearnconv/ops/csrc/common/dk_kernels.h"
#include "mmlearnconv/ops/csrc/common/drconv_kernels.h"

#include <torch/library.h>

namespace mmlearnconv {

struct InTurn {
  template <typename Kernel>
  void operator()(int64_t count, const Kernel& kernel) const {
    for (int64_t i = 0; i < count; ++i) kernel(i);
  }
};

// A member of a struct of operators, or a function that takes the launcher first, as a function.
template <auto member>
struct Plain;

template <
    typename Operators, typename Result, typename... Rest,
    Result (Operators::*member)(Rest...) const>
struct Plain<member> {
  static Result call(Rest... rest) {
    return (Operators{}.*member)(rest...);
  }
};

template <typename Result, typename... Rest, Result (*function)(const InTurn&, Rest...)>
struct Plain<function> {
  static Result call(Rest... rest) {
    return function(InTurn{}, rest...);
  }
};

TORCH_LIBRARY_IMPL(mmlearnconv, CPU, m) {
  m.impl("dcls_kernel", Plain<&dcls_kernel_with<InTurn>>::call);
  m.impl("dcls_kernel_backward", Plain<&dcls_kernel_backward_with<InTurn>>::call);
  m.impl("depthwise_weight_grad", Plain<&weight_grad<InTurn>>::call);
  m.impl("depthwise_taps", Plain<&taps_forward<InTurn>>::call);
  m.impl("depthwise_taps_backward", Plain<&taps_backward<InTurn>>::call);
  typedef DkOperators<InTurn> Dk;
  m.impl("dk_depthwise", Plain<&Dk::depthwise>::call);
  m.impl("dk_depthwise_backward", Plain<&Dk::depthwise_backward>::call);
  m.impl("dk_columns", Plain<&Dk::columns>::call);
  m.impl("dk_columns_backward", Plain<&Dk::columns_backward>::call);
  typedef DrconvOperators<InTurn> Regions;
  m.impl("drconv_features", Plain<&Regions::features>::call);
  m.impl("drconv_features_backward", Plain<&Regions::features_backward>::call);
  m.impl("drconv_inner", Plain<&Regions::inner>::call);
}

}  // namespace mmlearnconv
