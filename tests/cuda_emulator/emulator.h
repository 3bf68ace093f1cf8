// CUDA on the CPU: blocks, warps, shared memory, barriers, shuffles, votes and atomics, so that g++
// compiles a kernel's source and a test runs it. Every thread of a block is a fibre, which yields
// at barriers and at what a warp does together; which thread is resumed first is the test's choice
// (MMLEARNCONV_EMULATOR_ORDER: forward, reverse or random). A kernel without races gives the same
// result in each order.
//
// With AddressSanitizer, a read or write outside a tensor or outside the shared memory that a
// launch asked for ends the process with a report; with -fsanitize=alignment, so does a misaligned
// one. Shared memory begins as NaN in each block. What a GPU leaves undefined ends the process:
// threads of a block at different barriers, a lane that its warp waits for and that has ended.
#pragma once

// With PyTorch, its profiler counts launches.
#if __has_include(<ATen/record_function.h>)
#include <ATen/record_function.h>
#define MMLC_RECORD_LAUNCH() RECORD_FUNCTION("cudaLaunchKernel", {})
#else
#define MMLC_RECORD_LAUNCH()
#endif
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}

inline dim3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

namespace emulator {

constexpr int kWarp = warpSize;
constexpr size_t kStack = size_t(1) << 18;

enum class State { kReady, kAtBlock, kAtWarp, kDone };

struct Copy {
  void* to;
  const void* from;
  size_t size;
};

#ifndef __x86_64__
#error "the emulator switches stacks with instructions of x86-64"
#endif

// Leaves a stack, whose top is kept in `left`, for another one. ucontext would do, with two system
// calls each time.
static __attribute__((naked, noinline, no_sanitize_address)) void switch_stack(
    void** /* left */, void* /* top */) {
  asm volatile(
      "push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n\t"
      "mov %rsp, (%rdi)\n\t"
      "mov %rsi, %rsp\n\t"
      "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n\t"
      "ret");
}

struct Thread {
  void *stack = nullptr, *top = nullptr;
  State state = State::kReady;
  dim3 index;
  int number = 0;
  const char* file = "";  // of what it waits at
  int line = 0;
  unsigned mask = 0;
  int vote = 0;
  alignas(16) unsigned char shown[16] = {};        // to its warp
  alignas(16) unsigned char seen[kWarp][16] = {};  // of its warp, when all had come
  std::vector<std::vector<Copy>> copies{
      1};  // committed groups of asynchronous copies, and the last
};

[[noreturn]] inline void fail(const std::string& what) {
  std::fprintf(stderr, "CUDA emulator: %s\n", what.c_str());
  std::fflush(stderr);
  std::abort();
}

struct Block {
  std::vector<Thread> threads;
  void* scheduler = nullptr;  // the top of its stack
  const std::function<void()>* kernel = nullptr;
  Thread* current = nullptr;
  int count = 0;
  int votes[2] = {};  // of the barrier before: how many said yes, how many there were
  void* scheduler_stack = nullptr;
  const void* bottom = nullptr;
  size_t size = 0;
};

inline Block block;
inline std::mutex one_launch;
inline std::mt19937 random;
inline unsigned char* shared = nullptr;
inline size_t shared_size = 0;

inline void start_switch(void** own, const void* bottom, size_t size) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(own, bottom, size);
#endif
}
inline void finish_switch(void* own, const void** bottom, size_t* size) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(own, bottom, size);
#endif
}

inline void begin_thread() {
  finish_switch(nullptr, &block.bottom, &block.size);
  (*block.kernel)();
  block.current->state = State::kDone;
  start_switch(nullptr, block.bottom, block.size);
  void* unused;
  switch_stack(&unused, block.scheduler);
}

inline void resume(Thread& thread) {
  block.current = &thread;
  threadIdx = thread.index;
  start_switch(&block.scheduler_stack, thread.stack, kStack);
  switch_stack(&block.scheduler, thread.top);
  finish_switch(block.scheduler_stack, nullptr, nullptr);
}

inline void wait(State state, const char* file, int line) {
  Thread& own = *block.current;
  own.state = state;
  own.file = file;
  own.line = line;
  void* stack = nullptr;
  start_switch(&stack, block.bottom, block.size);
  switch_stack(&own.top, block.scheduler);
  finish_switch(stack, &block.bottom, &block.size);
}

inline std::string where(const Thread& thread) {
  return "thread " + std::to_string(thread.number) + " waits at " + thread.file + ":" +
         std::to_string(thread.line);
}

inline std::vector<int64_t> in_order(int64_t count) {
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), int64_t(0));
  const char* wanted = std::getenv("MMLEARNCONV_EMULATOR_ORDER");
  const std::string name = wanted == nullptr ? "forward" : wanted;
  if (name == "reverse") std::reverse(order.begin(), order.end());
  if (name == "random") std::shuffle(order.begin(), order.end(), random);
  return order;
}

// Lets go on who waits for nothing more; false if nobody does.
inline bool release() {
  bool any = false;
  const auto of = [](int i) -> Thread& { return block.threads[i]; };
  for (int i = 0; i < block.count; ++i) {
    if (of(i).state != State::kAtWarp) continue;
    const int first = i / kWarp * kWarp;
    bool complete = true;
    for (int lane = 0; lane < kWarp; ++lane) {
      if ((of(i).mask >> lane & 1) == 0) continue;
      const int other = first + lane;
      if (other >= block.count || of(other).state == State::kDone)
        fail(where(of(i)) + " for lane " + std::to_string(lane) + ", which has ended");
      if (of(other).state != State::kAtWarp)
        complete = false;
      else if (of(other).line != of(i).line || of(other).mask != of(i).mask)
        fail(where(of(i)) + ", and " + where(of(other)) + " of the same warp");
    }
    if (!complete) continue;
    for (int lane = 0; lane < kWarp; ++lane) {
      if ((of(i).mask >> lane & 1) == 0) continue;
      Thread& to = of(first + lane);
      for (int from = 0; from < kWarp && first + from < block.count; ++from)
        std::memcpy(to.seen[from], of(first + from).shown, sizeof(to.shown));
      to.state = State::kReady;
    }
    any = true;
  }
  const Thread* waiting = nullptr;
  int yes = 0, all = 0;
  for (int i = 0; i < block.count; ++i) {
    if (of(i).state == State::kDone) continue;
    if (of(i).state != State::kAtBlock) return any;
    if (waiting != nullptr && waiting->line != of(i).line)
      fail(where(*waiting) + ", and " + where(of(i)) + " of the same block");
    waiting = &of(i);
    yes += of(i).vote != 0;
    ++all;
  }
  if (waiting == nullptr) return any;
  block.votes[0] = yes;
  block.votes[1] = all;
  for (int i = 0; i < block.count; ++i)
    if (of(i).state == State::kAtBlock) of(i).state = State::kReady;
  return true;
}

inline void run_block(const std::function<void()>& kernel) {
  if (shared_size > 0) std::memset(shared, 0xff, shared_size);
  block.kernel = &kernel;
  for (int i = 0; i < block.count; ++i) {
    Thread& thread = block.threads[i];
    thread.state = State::kReady;
    thread.number = i;
    thread.copies.assign(1, {});
    thread.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    // Six registers, where to begin, and an address to return to, which is never used.
    void** top = reinterpret_cast<void**>(static_cast<char*>(thread.stack) + kStack) - 8;
#ifdef __SANITIZE_ADDRESS__
    // The thread before it never returned from its first frame.
    __asan_unpoison_memory_region(reinterpret_cast<char*>(top + 8) - 4096, 4096);
#endif
    std::fill(top, top + 8, nullptr);
    top[6] = reinterpret_cast<void*>(begin_thread);
    thread.top = top;
  }
  for (;;) {
    for (const int64_t i : in_order(block.count))
      if (block.threads[i].state == State::kReady) resume(block.threads[i]);
    bool ended = true;
    for (int i = 0; i < block.count; ++i) ended = ended && block.threads[i].state == State::kDone;
    if (ended) return;
    if (!release()) {
      for (int i = 0; i < block.count; ++i)
        if (block.threads[i].state != State::kDone) fail(where(block.threads[i]) + " for ever");
    }
  }
}

inline void run(dim3 grid, dim3 threads, size_t bytes, const std::function<void()>& kernel) {
  const std::lock_guard<std::mutex> guard(one_launch);
  random.seed(1);  // two runs are the same
  block.count = static_cast<int>(threads.x * threads.y * threads.z);
  if (block.count == 0 || block.count > 1024 || threads.z > 64)
    fail("a block of " + std::to_string(block.count) + " threads");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535)
    fail(
        "a grid of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " +
        std::to_string(grid.z) + " blocks");
  if (bytes > 48 * 1024) fail(std::to_string(bytes) + " bytes of shared memory, above 48 KB");
  while (static_cast<int>(block.threads.size()) < block.count) {
    block.threads.emplace_back();
    block.threads.back().stack =
        mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  blockDim = threads;
  gridDim = grid;
  shared_size = bytes;
  // No byte more than asked for.
  const std::unique_ptr<void, decltype(&std::free)> memory(
      bytes > 0 ? std::aligned_alloc(16, (bytes + 15) / 16 * 16) : nullptr, &std::free);
  if (bytes % 16 != 0) fail("shared memory of no whole number of 16 bytes");
  shared = static_cast<unsigned char*>(memory.get());
  for (const int64_t i : in_order(int64_t(grid.x) * grid.y * grid.z)) {
    blockIdx = {
        static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
        static_cast<unsigned>(i / grid.x / grid.y)};
    run_block(kernel);
  }
}

template <typename T>
T exchange(unsigned mask, T value, int from, const char* file, int line) {
  static_assert(sizeof(T) <= 16);
  Thread& own = *block.current;
  const int lane = own.number % kWarp;
  if ((mask >> lane & 1) == 0) fail("a lane that its own mask leaves out");
  own.mask = mask;
  std::memcpy(own.shown, &value, sizeof(T));
  wait(State::kAtWarp, file, line);
  // As on a GPU, a lane beyond the warp is the own one.
  if (from < 0 || from >= kWarp) return value;
  if ((mask >> from & 1) == 0) fail("a lane reads from one that the mask leaves out");
  std::memcpy(&value, own.seen[from], sizeof(T));
  return value;
}

inline unsigned ballot(unsigned mask, int predicate, const char* file, int line) {
  Thread& own = *block.current;
  exchange(mask, predicate, own.number % kWarp, file, line);
  unsigned result = 0;
  for (int lane = 0; lane < kWarp; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    int said;
    std::memcpy(&said, own.seen[lane], sizeof(int));
    result |= (said != 0 ? 1u : 0u) << lane;
  }
  return result;
}

// The lanes that show the same value as the own one.
inline unsigned match(unsigned mask, int value, const char* file, int line) {
  Thread& own = *block.current;
  exchange(mask, value, own.number % kWarp, file, line);
  unsigned result = 0;
  for (int lane = 0; lane < kWarp; ++lane)
    if ((mask >> lane & 1) != 0 && std::memcmp(&value, own.seen[lane], sizeof(int)) == 0)
      result |= 1u << lane;
  return result;
}

inline int votes(int predicate, int which, const char* file, int line) {
  block.current->vote = predicate;
  wait(State::kAtBlock, file, line);
  const int yes = block.votes[0];
  return which == 0 ? yes : which == 1 ? yes > 0 : yes == block.votes[1];
}

inline int lane() {
  return block.current->number % kWarp;
}

}  // namespace emulator

#define __syncthreads() static_cast<void>(emulator::votes(0, 0, __FILE__, __LINE__))
#define __syncthreads_count(p) emulator::votes(p, 0, __FILE__, __LINE__)
#define __syncthreads_or(p) emulator::votes(p, 1, __FILE__, __LINE__)
#define __syncthreads_and(p) emulator::votes(p, 2, __FILE__, __LINE__)
#define __syncwarp(...)                                                                  \
  static_cast<void>(emulator::exchange(                                                  \
      MMLC_FIRST(__VA_ARGS__ __VA_OPT__(, ) 0xffffffffu), 0, emulator::lane(), __FILE__, \
      __LINE__))
#define MMLC_FIRST(first, ...) first
#define __shfl_sync(mask, value, from) \
  emulator::exchange(mask, value, (from) % emulator::kWarp, __FILE__, __LINE__)
#define __shfl_xor_sync(mask, value, by) \
  emulator::exchange(mask, value, emulator::lane() ^ (by), __FILE__, __LINE__)
#define __shfl_down_sync(mask, value, by) \
  emulator::exchange(mask, value, emulator::lane() + static_cast<int>(by), __FILE__, __LINE__)
#define __shfl_up_sync(mask, value, by) \
  emulator::exchange(mask, value, emulator::lane() - static_cast<int>(by), __FILE__, __LINE__)
#define __ballot_sync(mask, predicate) emulator::ballot(mask, predicate, __FILE__, __LINE__)
#define __any_sync(mask, predicate) (__ballot_sync(mask, predicate) != 0)
#define __match_any_sync(mask, value) emulator::match(mask, value, __FILE__, __LINE__)
#define __all_sync(mask, predicate) (__ballot_sync(mask, predicate) == (mask))
#define MMLC_SHARED_MEMORY(T, name) T* const name = reinterpret_cast<T*>(emulator::shared)

template <typename T>
T atomicAdd(T* to, T value) {
  const T before = *to;
  *to += value;
  return before;
}
template <typename T>
T atomicMax(T* to, T value) {
  const T before = *to;
  *to = std::max(before, value);
  return before;
}
template <typename T>
T atomicMin(T* to, T value) {
  const T before = *to;
  *to = std::min(before, value);
  return before;
}
inline int __popc(unsigned bits) {
  return __builtin_popcount(bits);
}
template <typename T>
T __ldg(const T* from) {
  return *from;
}
// CUDA has these for floating point as well; of C's functions, abs takes integers only.
using std::abs;
using std::exp;
using std::max;
using std::min;
using std::rint;

// Copies that arrive when they are waited for, no sooner.
inline void __pipeline_memcpy_async(void* to, const void* from, size_t size) {
  if (size != 4 && size != 8 && size != 16)
    emulator::fail("an asynchronous copy of " + std::to_string(size) + " bytes");
  if (reinterpret_cast<uintptr_t>(to) % size != 0 || reinterpret_cast<uintptr_t>(from) % size != 0)
    emulator::fail("a misaligned asynchronous copy");
  emulator::block.current->copies.back().push_back({to, from, size});
}
inline void __pipeline_commit() {
  emulator::block.current->copies.emplace_back();
}
inline void __pipeline_wait_prior(size_t left) {
  auto& copies = emulator::block.current->copies;
  while (copies.size() - 1 > left) {
    for (const auto& copy : copies.front()) std::memcpy(copy.to, copy.from, copy.size);
    copies.erase(copies.begin());
  }
}

typedef void* cudaStream_t;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};
template <typename... Parameters, typename... Arguments>
int cudaLaunchKernelEx(
    const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
  MMLC_RECORD_LAUNCH();
  const std::tuple<Parameters...> values(std::forward<Arguments>(arguments)...);
  emulator::run(config->gridDim, config->blockDim, config->dynamicSmemBytes, [&] {
    std::apply(kernel, values);
  });
  return 0;
}
