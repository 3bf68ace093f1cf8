// Reading between the cells of a kernel and between the pixels of a map.
#pragma once

#include <c10/macros/Macros.h>

#include <cstdint>

namespace mmlearnconv {

// Linear interpolation along an axis: cell `low` has weight 1 - part, `high` has weight part.
template <typename T>
struct Linear {
  int32_t low, high;
  T part;
  bool moves;  // whether the position has a gradient
};

// Positions outside the cells are clipped and get no gradient. At a cell the derivative is the
// right-hand one, at the last cell the left-hand one, so that a position on an edge can move back
// inside.
template <typename T>
C10_HOST_DEVICE C10_ALWAYS_INLINE Linear<T> clipped(T position, int32_t cells) {
  const T last = static_cast<T>(cells - 1);
  const bool moves = position >= 0 && position <= last;
  const T bounded = position < 0 ? T(0) : position > last ? last : position;
  // A NaN position reads cell 0; `part` keeps the NaN.
  int32_t low = bounded >= 0 ? static_cast<int32_t>(bounded) : 0;
  if (low > 0 && low == cells - 1) --low;
  return {low, low + 1 < cells ? low + 1 : cells - 1, bounded - static_cast<T>(low), moves};
}

// A position on a map, between pixels `low` and `low + 1`. A pixel outside the map is -1 and counts
// as zero. A NaN position reads pixel 0; `part` keeps the NaN.
template <typename T>
C10_HOST_DEVICE C10_ALWAYS_INLINE Linear<T> on_map(T position, int32_t size) {
  if (position != position) return {0, 0, position, true};
  if (!(position >= -1 && position < static_cast<T>(size))) return {-1, -1, T(0), false};
  int32_t low = static_cast<int32_t>(position);
  if (static_cast<T>(low) > position) --low;
  return {low, low + 1 < size ? low + 1 : -1, position - static_cast<T>(low), true};
}

// Weights of a position's four neighbours, low row first, and the derivatives along y and x.
template <typename T>
struct BilinearWeights {
  int32_t index[4];
  T weight[4];
  T part_y, part_x;
  bool moves_y, moves_x;

  template <typename V>
  C10_HOST_DEVICE C10_ALWAYS_INLINE V slope_y(const V* corner) const {
    return (T(1) - part_x) * (corner[2] - corner[0]) + part_x * (corner[3] - corner[1]);
  }
  template <typename V>
  C10_HOST_DEVICE C10_ALWAYS_INLINE V slope_x(const V* corner) const {
    return (T(1) - part_y) * (corner[1] - corner[0]) + part_y * (corner[3] - corner[2]);
  }
};

// Neighbours outside the map have index -1 and weight 0.
template <typename T>
C10_HOST_DEVICE C10_ALWAYS_INLINE BilinearWeights<T> bilinear_weights(
    const Linear<T>& y, const Linear<T>& x, int32_t columns) {
  BilinearWeights<T> s;
  const int32_t rows[2] = {y.low, y.high}, locations[2] = {x.low, x.high};
  const T of_rows[2] = {T(1) - y.part, y.part}, of_places[2] = {T(1) - x.part, x.part};
  for (int i = 0; i < 4; ++i) {
    const bool present = rows[i / 2] >= 0 && locations[i % 2] >= 0;
    s.index[i] = present ? rows[i / 2] * columns + locations[i % 2] : -1;
    s.weight[i] = present ? of_rows[i / 2] * of_places[i % 2] : T(0);
  }
  s.part_y = y.part;
  s.part_x = x.part;
  s.moves_y = y.moves;
  s.moves_x = x.moves;
  return s;
}

}  // namespace mmlearnconv
