// Vectors of a cache line, and the compilation of a function for every instruction set.
#pragma once

#include <cstdint>
#include <cstring>

// One compilation per instruction set, chosen when the library is loaded.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define MMLC_FOR_EVERY_CPU \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MMLC_FOR_EVERY_CPU
#endif
#define MMLC_INLINE inline __attribute__((always_inline))

namespace mmlearnconv {

constexpr int64_t kBytes = 64;

template <typename T>
constexpr int64_t kLanes = kBytes / sizeof(T);

template <typename T>
struct Vector {
  typedef T type __attribute__((vector_size(kBytes)));
};

template <typename T>
MMLC_INLINE typename Vector<T>::type load(const T* from, int64_t lanes = kLanes<T>) {
  typename Vector<T>::type value;
  if (lanes == kLanes<T>) {
    std::memcpy(&value, from, sizeof(value));
  } else {
    value = typename Vector<T>::type{};
    std::memcpy(&value, from, lanes * sizeof(T));
  }
  return value;
}

template <typename T>
MMLC_INLINE void store(T* to, typename Vector<T>::type value, int64_t lanes = kLanes<T>) {
  if (lanes == kLanes<T>) {
    std::memcpy(to, &value, sizeof(value));
  } else {
    std::memcpy(to, &value, lanes * sizeof(T));
  }
}

template <typename T>
MMLC_INLINE T sum(typename Vector<T>::type value) {
  typedef T Half __attribute__((vector_size(kBytes / 2)));
  typedef T Quarter __attribute__((vector_size(kBytes / 4)));
  Half halves[2];
  std::memcpy(halves, &value, sizeof(halves));
  halves[0] += halves[1];
  Quarter quarters[2];
  std::memcpy(quarters, halves, sizeof(quarters));
  quarters[0] += quarters[1];
  T total = 0;
  for (int64_t lane = 0; lane < kLanes<T> / 4; ++lane) total += quarters[0][lane];
  return total;
}

}  // namespace mmlearnconv
