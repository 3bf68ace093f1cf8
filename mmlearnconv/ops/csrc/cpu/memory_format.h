// The two memory formats, and copies between them.
#pragma once

#include "../common/depthwise_taps.h"
#include "vector.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace mmlearnconv {

// Transposes a square block of kLanes<T> rows and columns by exchanging ever larger sub-blocks.
template <typename T>
MMLC_INLINE void transpose_square(T* to, int64_t to_step, const T* from, int64_t from_step) {
#if defined(__GNUC__) && !defined(__clang__)
  typedef typename Vector<T>::type V;
  typedef decltype(V{} < V{}) Mask;
  constexpr int64_t n = kLanes<T>;
  V rows[n];
  for (int64_t i = 0; i < n; ++i) rows[i] = load(from + i * from_step);
#pragma GCC unroll 4
  for (int64_t step = 1; step < n; step *= 2) {
    Mask upper, lower;
    for (int64_t l = 0; l < n; ++l) {
      upper[l] = l & step ? n + l - step : l;
      lower[l] = l & step ? n + l : l + step;
    }
    for (int64_t i = 0; i < n; ++i) {
      if (i & step) continue;
      const V a = rows[i], b = rows[i + step];
      rows[i] = __builtin_shuffle(a, b, upper);
      rows[i + step] = __builtin_shuffle(a, b, lower);
    }
  }
  for (int64_t i = 0; i < n; ++i) store(to + i * to_step, rows[i]);
#else
  for (int64_t i = 0; i < kLanes<T>; ++i)
    for (int64_t j = 0; j < kLanes<T>; ++j) to[i * to_step + j] = from[j * from_step + i];
#endif
}

// to[j, i] = from[i, j]
template <typename T>
MMLC_INLINE void transpose(
    T* to, int64_t to_step, const T* from, int64_t from_step, int64_t rows, int64_t columns) {
  constexpr int64_t n = kLanes<T>;
  for (int64_t c = 0; c < columns; c += n) {
    for (int64_t r = 0; r < rows; r += n) {
      if (c + n <= columns && r + n <= rows) {
        transpose_square(to + c * to_step + r, to_step, from + r * from_step + c, from_step);
        continue;
      }
      for (int64_t j = c; j < std::min(c + n, columns); ++j)
        for (int64_t i = r; i < std::min(r + n, rows); ++i)
          to[j * to_step + i] = from[i * from_step + j];
    }
  }
}

MMLC_FOR_EVERY_CPU inline void transpose_of(
    float* to, int64_t to_step, const float* from, int64_t from_step, int64_t rows,
    int64_t columns) {
  transpose(to, to_step, from, from_step, rows, columns);
}

MMLC_FOR_EVERY_CPU inline void transpose_of(
    double* to, int64_t to_step, const double* from, int64_t from_step, int64_t rows,
    int64_t columns) {
  transpose(to, to_step, from, from_step, rows, columns);
}

// Planes of a (N, C, H, W) tensor of either format, as they are or as copies of a few at a time.
template <typename T>
struct Planes {
  T* data;
  int64_t channels, size;          // size: of a plane
  bool last;                       // channels_last
  int64_t image_step, plane_step;  // from one to the next

  T* at(int64_t image, int64_t channel) const {
    return data + image * image_step + channel * plane_step;
  }
  // Distance from one plane to the next in what `read` and `open` return.
  int64_t step() const {
    return last ? size : plane_step;
  }
  // `count` planes from `channel` on.
  T* read(std::vector<std::remove_const_t<T>>& copy, int64_t image, int64_t channel, int64_t count)
      const {
    if (!last) return at(image, channel);
    copy.resize(count * size);
    transpose_of(copy.data(), size, at(image, channel), channels, size, count);
    return copy.data();
  }
  // `open` returns where to write `count` planes; `close` must be called after writing them.
  T* open(std::vector<T>& copy, int64_t image, int64_t channel, int64_t count) const {
    if (!last) return at(image, channel);
    copy.resize(count * size);
    return copy.data();
  }
  void close(const std::vector<T>& copy, int64_t image, int64_t channel, int64_t count) const {
    if (last) transpose_of(at(image, channel), channels, copy.data(), size, count, size);
  }
};

template <typename T>
Planes<T> planes_of(const at::Tensor& tensor) {
  T* const data = tensor.numel() == 0 ? nullptr : [&] {
    if constexpr (std::is_const_v<T>) {
      return tensor.const_data_ptr<std::remove_const_t<T>>();
    } else {
      return tensor.data_ptr<T>();
    }
  }();
  return {
      data,
      tensor.size(1),
      tensor.size(2) * tensor.size(3),
      format_of(tensor) == at::MemoryFormat::ChannelsLast,
      tensor.stride(0),
      tensor.stride(1)};
}

// A copy in the other memory format: rows of `from`, all of its images, become columns of `to`.
template <typename T>
void transpose_images(T* to, const T* from, int64_t batch, int64_t rows, int64_t columns) {
  constexpr int64_t tall = 64;
  const int64_t bands = (rows + tall - 1) / tall, size = rows * columns;
  at::parallel_for(0, batch * bands, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / bands * size, r = task % bands * tall;
      transpose_of(
          to + n + r, rows, from + n + r * columns, columns, std::min(tall, rows - r), columns);
    }
  });
}

// The tensor in a dtype and a memory format.
template <typename T>
at::Tensor in_format(const at::Tensor& tensor, at::MemoryFormat format) {
  const at::Tensor from = tensor.to(at::CppTypeToScalarType<T>::value);
  const bool last = format == at::MemoryFormat::ChannelsLast;
  const auto other = last ? at::MemoryFormat::Contiguous : at::MemoryFormat::ChannelsLast;
  if (from.is_contiguous(format) || from.numel() == 0 || !from.is_contiguous(other))
    return from.contiguous(format);
  const at::Tensor to = at::empty(from.sizes(), from.options(), format);
  const int64_t locations = from.size(2) * from.size(3), channels = from.size(1);
  transpose_images(
      to.data_ptr<T>(), from.const_data_ptr<T>(), from.size(0), last ? channels : locations,
      last ? locations : channels);
  return to;
}

// The tensor in a dtype, as channels_last or as planes that may lie apart.
inline at::Tensor as_planes(const at::Tensor& tensor, at::ScalarType dtype) {
  const at::Tensor cast = tensor.to(dtype);
  if (cast.stride(3) == 1 && cast.stride(2) == cast.size(3)) return cast;
  return cast.contiguous(format_of(cast));
}

}  // namespace mmlearnconv
