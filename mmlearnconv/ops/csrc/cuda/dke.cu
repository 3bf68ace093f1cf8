// The taps of differentiable kernel evolution: the cells within reach of each position.

#include "../common/geometry.h"
#include "launch.cuh"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <cmath>
#include <tuple>

namespace mmlearnconv {
namespace {

// Cells lie in a square about the nearest one, whose sides reach so far; positions are relative to
// the window's centre.
template <typename T>
struct Reach {
  int window[2], reach;
  bool gauss;
  T radius;

  __device__ int side() const {
    return 2 * reach + 1;
  }
  __device__ int taps() const {
    return side() * side();
  }
};

// One position.
template <typename T>
struct Point {
  Reach<T> r;
  T part[2], alpha;
  int nearest[2];

  __device__ Point(const Reach<T>& r, const T* position, T alpha) : r(r), alpha(alpha) {
    for (int a = 0; a < 2; ++a) {
      const T place = position[a] + static_cast<T>(r.window[a] - 1) / 2, cell = rint(place);
      part[a] = place - cell;
      // Farther away there is no cell; a NaN counts as 0, and `part` keeps it.
      constexpr T far = 1 << 30;
      nearest[a] = cell == cell ? static_cast<int>(max(-far, min(far, cell))) : 0;
    }
  }
  // Along an axis, the cell of tap t; its distance from the position.
  __device__ int cell(int t, int axis) const {
    return nearest[axis] + (axis == 0 ? t / r.side() : t % r.side()) - r.reach;
  }
  __device__ T distance(int t, int axis) const {
    return static_cast<T>((axis == 0 ? t / r.side() : t % r.side()) - r.reach) - part[axis];
  }
  __device__ T squared(int t) const {
    return distance(t, 0) * distance(t, 0) + distance(t, 1) * distance(t, 1);
  }
  __device__ static T falls(T distance) {
    const T left = T(1) - abs(distance);
    return left < 0 ? T(0) : left;
  }
  __device__ static T slope(T distance) {
    if (!(T(1) - abs(distance) > 0) || distance == 0) return T(0);
    return distance > 0 ? T(1) : T(-1);
  }
  // Before it is normalised; zero outside the window.
  __device__ T value(int t) const {
    T value = 0;
    if (!r.gauss)
      value = falls(distance(t, 0)) * falls(distance(t, 1));
    else if (squared(t) <= r.radius * r.radius)
      value = exp(-alpha * squared(t));
    bool inside = true;
    for (int a = 0; a < 2; ++a) inside = inside && cell(t, a) >= 0 && cell(t, a) < r.window[a];
    return inside || value != value ? value : T(0);
  }
};

// Work items are points.
template <typename T>
struct Taps {
  Reach<T> r;
  const T *positions, *alpha;
  T* values;
  int64_t* cells;

  __device__ void operator()(int64_t i) const {
    const Point<T> point(r, positions + 2 * i, *alpha);
    const int taps = r.taps();
    T sum = 0;
    for (int t = 0; t < taps; ++t) sum += point.value(t);
    for (int t = 0; t < taps; ++t) {
      values[i * taps + t] = r.gauss ? point.value(t) / sum : point.value(t);
      for (int a = 0; a < 2; ++a)
        cells[2 * (i * taps + t) + a] = max(0, min(r.window[a] - 1, point.cell(t, a)));
    }
  }
};

// The normaliser is a constant, so that dG/dy = 2 alpha G (s - y), dG/dalpha = -|s - y|^2 G.
template <typename T>
struct TapsBackward {
  Reach<T> r;
  const T *grad, *positions, *values, *alpha;
  T *grad_positions, *grad_alpha;

  __device__ void operator()(int64_t i) const {
    const Point<T> point(r, positions + 2 * i, *alpha);
    const int taps = r.taps();
    T sums[3] = {};
    for (int t = 0; t < taps; ++t) {
      const T own = grad[i * taps + t], y = point.distance(t, 0), x = point.distance(t, 1);
      if (r.gauss) {
        const T value = own * values[i * taps + t];
        sums[0] += T(2) * *alpha * value * y;
        sums[1] += T(2) * *alpha * value * x;
        // A cell out of reach is zero whatever its distance.
        if (value != 0) sums[2] -= point.squared(t) * value;
      } else if (values[i * taps + t] != 0) {
        sums[0] += own * point.slope(y) * point.falls(x);
        sums[1] += own * point.falls(y) * point.slope(x);
      }
    }
    grad_positions[2 * i] = sums[0];
    grad_positions[2 * i + 1] = sums[1];
    grad_alpha[i] = sums[2];
  }
};

template <typename T>
Reach<T> reach(at::IntArrayRef window, bool gauss, double radius) {
  const int64_t reach = in_32_bits(static_cast<int64_t>(std::floor((gauss ? radius : 1) + 0.5)));
  in_32_bits((2 * reach + 1) * (2 * reach + 1));
  return {
      {in_32_bits(window[0]), in_32_bits(window[1])},
      static_cast<int>(reach),
      gauss,
      static_cast<T>(radius)};
}

void check(const at::Tensor& positions, const at::Tensor& alpha, at::IntArrayRef window) {
  TORCH_CHECK(
      positions.dim() == 3 && positions.size(2) == 2 && positions.is_contiguous() &&
          alpha.numel() == 1 && alpha.scalar_type() == positions.scalar_type() && window[0] > 0 &&
          window[1] > 0,
      "dke_taps: positions ", positions.sizes(), " of ", positions.scalar_type(),
      " must be (channels, points, 2), contiguous, alpha ", alpha.sizes(), " of ",
      alpha.scalar_type(), " one number of the same dtype, and window ", window, " positive");
}

std::tuple<at::Tensor, at::Tensor> dke_taps(
    const at::Tensor& positions, const at::Tensor& alpha, at::IntArrayRef window, bool gauss,
    double radius) {
  const c10::cuda::CUDAGuard guard(positions.device());
  check(positions, alpha, window);
  at::Tensor values, cells;
  AT_DISPATCH_FLOATING_TYPES(positions.scalar_type(), "dke_taps", [&] {
    const auto r = reach<scalar_t>(window, gauss, radius);
    const int64_t taps = (2 * r.reach + 1) * (2 * r.reach + 1);
    values = at::empty({positions.size(0), positions.size(1), taps}, positions.options());
    cells = at::empty(
        {positions.size(0), positions.size(1), taps, 2}, positions.options().dtype(at::kLong));
    OnCuda{}(
        positions.numel() / 2,
        Taps<scalar_t>{
            r, positions.const_data_ptr<scalar_t>(), alpha.const_data_ptr<scalar_t>(),
            values.data_ptr<scalar_t>(), cells.data_ptr<int64_t>()});
  });
  return {values, cells};
}

std::tuple<at::Tensor, at::Tensor> dke_taps_backward(
    const at::Tensor& grad, const at::Tensor& positions, const at::Tensor& values,
    const at::Tensor& alpha, at::IntArrayRef window, bool gauss, double radius) {
  const c10::cuda::CUDAGuard guard(grad.device());
  check(positions, alpha, window);
  TORCH_CHECK(
      grad.sizes() == values.sizes() && grad.scalar_type() == positions.scalar_type(),
      "dke_taps_backward: grad ", grad.sizes(), " of ", grad.scalar_type(), " must be ",
      values.sizes(), " of ", positions.scalar_type());
  const at::Tensor grad_c = grad.contiguous();
  const at::Tensor grad_positions = at::empty_like(positions);
  const at::Tensor grad_alpha =
      at::empty({positions.size(0), positions.size(1)}, positions.options());
  AT_DISPATCH_FLOATING_TYPES(positions.scalar_type(), "dke_taps_backward", [&] {
    OnCuda{}(
        positions.numel() / 2,
        TapsBackward<scalar_t>{
            reach<scalar_t>(window, gauss, radius), grad_c.const_data_ptr<scalar_t>(),
            positions.const_data_ptr<scalar_t>(), values.const_data_ptr<scalar_t>(),
            alpha.const_data_ptr<scalar_t>(), grad_positions.data_ptr<scalar_t>(),
            grad_alpha.data_ptr<scalar_t>()});
  });
  return {grad_positions, grad_alpha};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmlearnconv, CUDA, m) {
  m.impl("dke_taps", dke_taps);
  m.impl("dke_taps_backward", dke_taps_backward);
}

}  // namespace mmlearnconv
