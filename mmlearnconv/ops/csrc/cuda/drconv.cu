// Region-aware convolution; maps are channels_last. Locations are sorted into buckets of one size,
// each of one region, so that the products of all regions are one batched product.

#include "../common/drconv.h"
#include "launch.cuh"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <tuple>

namespace mmlearnconv {
namespace {

struct Sorting {
  const int64_t* region;
  int64_t *slot, *location, *owner;
  int *counts, *starts;  // (warps, regions) and (regions); null: in shared memory
  int locations, regions, size, buckets;
};

// Calls `use` for a warp's part of the locations, 32 at a time, with the index, the region and how
// many of the lanes before have the same region; and then, in one lane per region, adds to `count`.
template <typename Use>
__device__ void over_regions(const Sorting& s, int* counts, const Use& use) {
  const int lane = static_cast<int>(threadIdx.x) % kLanesOfWarp;
  const int warp = static_cast<int>(threadIdx.x) / kLanesOfWarp;
  const int warps = static_cast<int>(blockDim.x) / kLanesOfWarp;
  const int rounds = (s.locations - 1) / static_cast<int>(blockDim.x) + 1;
  int* const own = counts + warp * s.regions;
  for (int round = 0; round < rounds; ++round) {
    const int i = (warp * rounds + round) * kLanesOfWarp + lane;
    const int region = i < s.locations ? static_cast<int>(s.region[i]) : -1;
    const unsigned same = __match_any_sync(0xffffffffu, region);
    const int before = __popc(same & ((1u << lane) - 1));
    if (region >= 0) use(i, region, own[region] + before);
    __syncwarp();
    if (region >= 0 && before == 0) own[region] += __popc(same);
    __syncwarp();
  }
}

// By one block. Locations of a region keep their order.
__global__ void sort_locations(Sorting s) {
  MMLC_SHARED_MEMORY(int, memory);
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int warps = threads / kLanesOfWarp;
  int* const counts = s.counts != nullptr ? s.counts : memory;
  int* const starts = s.starts != nullptr ? s.starts : memory + warps * s.regions;
  for (int i = thread; i < warps * s.regions; i += threads) counts[i] = 0;
  for (int i = thread; i < s.buckets * s.size; i += threads) s.location[i] = s.locations;
  // Buckets after the last region's hold no location: any region will do for them.
  for (int i = thread; i < s.buckets; i += threads) s.owner[i] = s.regions - 1;
  __syncthreads();
  over_regions(s, counts, [](int, int, int) {});
  __syncthreads();
  // How many the warps before have.
  for (int r = thread; r < s.regions; r += threads) {
    int total = 0;
    for (int w = 0; w < warps; ++w) {
      const int own = counts[w * s.regions + r];
      counts[w * s.regions + r] = total;
      total += own;
    }
    starts[r] = (total + s.size - 1) / s.size;
  }
  __syncthreads();
  if (thread == 0) {
    int bucket = 0;
    for (int r = 0; r < s.regions; ++r) {
      const int held = starts[r];
      starts[r] = bucket * s.size;
      for (int b = bucket; b < bucket + held; ++b) s.owner[b] = r;
      bucket += held;
    }
  }
  __syncthreads();
  over_regions(s, counts, [&](int i, int region, int place) {
    const int slot = starts[region] + place;
    s.slot[i] = slot;
    s.location[slot] = i;
  });
}

// What the kernels below read.
template <typename scalar_t, typename sum_t>
struct Map {
  RegionsOf<int32_t> r;
  const scalar_t* input;
  const sum_t* pattern;
  const int64_t* region;
  int groups;

  __device__ Location<int> place(int j) const {
    return Location<int>::of(j, r.map.y.out_size, r.map.x.out_size);
  }
  __device__ int pixel(const Location<int>& at, int k) const {
    const int u = k / r.kernel_columns;
    return r.pixel(at.n, at.y, at.x, u, k - u * r.kernel_columns);
  }
  __device__ sum_t value(int pixel, int c) const {
    return static_cast<sum_t>(input[static_cast<int64_t>(pixel) * r.channels + c]);
  }
  // Of location j of image n, or of any region.
  __device__ sum_t share(int n, int j, int k) const {
    return share_of(n, static_cast<int>(region[j]), k);
  }
  __device__ sum_t share_of(int n, int t, int k) const {
    return pattern[static_cast<int64_t>(n * r.regions + t) * r.taps() + k];
  }
  // A row is (groups, 2, C / groups): the weighted sums and the plain ones of each group.
  __device__ int weighted(int c) const {
    const int of_group = r.channels / groups;
    return c / of_group * of_group + c;
  }
  __device__ int plain(int c) const {
    return weighted(c) + r.channels / groups;
  }
};

// A pixel under a tap, or -1, and the tap's factor in the region's pattern.
template <typename T>
struct Share {
  int pixel;
  T factor;
};

// The row of each slot: zeros if it holds no location.
template <typename scalar_t, typename sum_t>
struct Gather {
  Map<scalar_t, sum_t> m;
  scalar_t* out;
  const int64_t* location;
  int locations;

  __device__ void operator()(int slot, const Warp& warp) const {
    typedef Share<sum_t> Entry;
    const int j = static_cast<int>(location[slot]);
    const bool held = j < locations;
    const auto at = m.place(held ? j : 0);
    scalar_t* const own = out + static_cast<int64_t>(slot) * 2 * m.r.channels;
    for (int first = 0; first < m.r.channels; first += kLanesOfWarp) {
      const int c = first + warp.lane;
      sum_t weighted = 0, plain = 0;
      warp.over_taps<Entry>(
          held ? m.r.taps() : 0, first == 0,
          [&](int k) { return Entry{m.pixel(at, k), m.share(at.n, j, k)}; },
          [&](const Entry& entry, int) {
            if (c >= m.r.channels || entry.pixel < 0) return;
            const sum_t value = m.value(entry.pixel, c);
            weighted += entry.factor * value;
            plain += value;
          });
      if (c >= m.r.channels) continue;
      own[m.weighted(c)] = static_cast<scalar_t>(weighted);
      own[m.plain(c)] = static_cast<scalar_t>(plain);
    }
  }
};

// Gradient of the input: each pixel gathers from all locations that read it.
template <typename scalar_t, typename sum_t>
struct GatherInputGrad {
  // The slot of a location that reads the pixel, or -1, and the tap's factor there.
  struct Entry {
    int slot;
    sum_t factor;
  };
  Map<scalar_t, sum_t> m;
  scalar_t* grad_input;
  const scalar_t* grad;
  const int64_t* slot;

  __device__ Entry entry(const Location<int>& at, int k) const {
    const auto& r = m.r;
    const int u = k / r.kernel_columns;
    const int y = r.map.y.output_of(at.y, u);
    const int x = r.map.x.output_of(at.x, k - u * r.kernel_columns);
    if (y < 0 || x < 0) return {-1, sum_t(0)};
    const int j = (at.n * r.map.y.out_size + y) * r.map.x.out_size + x;
    return {static_cast<int>(slot[j]), m.share(at.n, j, k)};
  }
  __device__ void operator()(int pixel, const Warp& warp) const {
    const auto at = Location<int>::of(pixel, m.r.map.y.size, m.r.map.x.size);
    const int channels = m.r.channels;
    for (int first = 0; first < channels; first += kLanesOfWarp) {
      const int c = first + warp.lane, weighted = m.weighted(c), plain = m.plain(c);
      sum_t total = 0;
      warp.over_taps<Entry>(
          m.r.taps(), first == 0, [&](int k) { return entry(at, k); },
          [&](const Entry& entry, int) {
            if (c >= channels || entry.slot < 0) return;
            const scalar_t* const row = grad + static_cast<int64_t>(entry.slot) * 2 * channels;
            total +=
                entry.factor * static_cast<sum_t>(row[weighted]) + static_cast<sum_t>(row[plain]);
          });
      if (c < channels)
        grad_input[static_cast<int64_t>(pixel) * channels + c] = static_cast<scalar_t>(total);
    }
  }
};

// What each location adds to the gradient of its image's and region's pattern.
template <typename scalar_t, typename sum_t>
struct PatternGrad {
  Map<scalar_t, sum_t> m;
  sum_t* out;      // (location, tap)
  int64_t* owner;  // index of the image and region in (N, regions)
  const scalar_t* grad;
  const int64_t* slot;

  __device__ void operator()(int j, const Warp& warp) const {
    const auto at = m.place(j);
    const int taps = m.r.taps(), channels = m.r.channels;
    const scalar_t* const row = grad + slot[j] * 2 * channels;
    warp.over_taps<int>(
        taps, true, [&](int k) { return m.pixel(at, k); },
        [&](int pixel, int k) {
          sum_t total = 0;
          for (int c = warp.lane; c < (pixel < 0 ? 0 : channels); c += kLanesOfWarp)
            total += static_cast<sum_t>(row[m.weighted(c)]) * m.value(pixel, c);
          total = Warp::sum(total);
          if (warp.lane == 0) out[static_cast<int64_t>(j) * taps + k] = total;
        });
    if (warp.lane == 0) owner[j] = at.n * m.r.regions + m.region[j];
  }
};

// The guide's gradient at each location and region, from location `begin` on.
template <typename scalar_t, typename sum_t>
struct Inner {
  Map<scalar_t, sum_t> m;
  sum_t* out;
  const scalar_t* products;  // (location, region, 2, C)
  int begin;

  __device__ void operator()(int i, const Warp& warp) const {
    const auto at = m.place(begin + i);
    const int taps = m.r.taps(), channels = m.r.channels;
    const scalar_t* const own = products + static_cast<int64_t>(i) * m.r.regions * 2 * channels;
    for (int first = 0; first < taps; first += kLanesOfWarp) {
      const int* const pixels =
          warp.prepare<int>(first, taps, [&](int k) { return m.pixel(at, k); });
      const int held = min(taps - first, kLanesOfWarp);
      for (int t = 0; t < m.r.regions; ++t) {
        sum_t total = 0;
        for (int c = warp.lane; c < channels; c += kLanesOfWarp) {
          const sum_t weighted = static_cast<sum_t>(own[2 * t * channels + c]);
          const sum_t plain = static_cast<sum_t>(own[(2 * t + 1) * channels + c]);
          for (int k = 0; k < held; ++k)
            if (pixels[k] >= 0)
              total += (m.share_of(at.n, t, first + k) * weighted + plain) * m.value(pixels[k], c);
        }
        total = Warp::sum(total);
        if (warp.lane != 0) continue;
        sum_t& to = out[static_cast<int64_t>(i) * m.r.regions + t];
        to = first == 0 ? total : to + total;
      }
    }
  }
};

std::tuple<at::Tensor, at::Tensor, at::Tensor> drconv_sort(
    const at::Tensor& region, int64_t regions, int64_t size) {
  const c10::cuda::CUDAGuard guard(region.device());
  TORCH_CHECK(
      region.dim() == 1 && region.is_contiguous() && region.scalar_type() == at::kLong &&
          region.numel() > 0 && regions > 0 && size > 0,
      "drconv_sort: region ", region.sizes(), " of ", region.scalar_type(),
      " must be a contiguous vector of Long, of one element at least");
  const int64_t locations = region.numel(), buckets = (locations + size - 1) / size + regions;
  const at::Tensor slot = at::empty_like(region);
  const at::Tensor location = at::empty({in_32_bits(buckets * size)}, region.options());
  const at::Tensor owner = at::empty({buckets}, region.options());
  const int64_t warps = std::min<int64_t>((locations + kLanesOfWarp - 1) / kLanesOfWarp, 32);
  const int64_t counts = (in_32_bits(regions) * (warps + 1) + 3) / 4 * 4;
  const bool shared = counts * static_cast<int64_t>(sizeof(int)) <= kSharedBytes;
  const at::Tensor memory = at::empty({shared ? 0 : counts}, region.options().dtype(at::kInt));
  int* const at_counts = shared ? nullptr : memory.data_ptr<int>();
  launch(
      sort_locations, dim3(1), dim3(static_cast<unsigned>(warps * kLanesOfWarp)),
      shared ? counts * sizeof(int) : 0,
      Sorting{
          region.const_data_ptr<int64_t>(), slot.data_ptr<int64_t>(), location.data_ptr<int64_t>(),
          owner.data_ptr<int64_t>(), at_counts, shared ? nullptr : at_counts + regions * warps,
          in_32_bits(locations), in_32_bits(regions), in_32_bits(size), in_32_bits(buckets)});
  return {slot, location, owner};
}

// Calls `run` with the dtypes of the input and of the sums.
template <typename Run>
void for_dtype(const at::Tensor& input, const Run& run) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "drconv", [&] {
    run(scalar_t(), at::opmath_type<scalar_t>());
  });
}

template <typename scalar_t, typename sum_t>
Map<scalar_t, sum_t> map(
    const Regions& r, const at::Tensor& input, const at::Tensor& pattern, const int64_t* region,
    int64_t groups) {
  return {
      in_32_bits(r), input.const_data_ptr<scalar_t>(), pattern.const_data_ptr<sum_t>(), region,
      in_32_bits(groups)};
}

void check_indices(const Regions& r, const at::Tensor& region, const at::Tensor& other) {
  const int64_t locations = r.batch * r.locations();
  TORCH_CHECK(
      region.is_contiguous() && region.numel() == locations && other.numel() >= locations &&
          other.is_contiguous() && region.scalar_type() == at::kLong &&
          other.scalar_type() == at::kLong,
      "drconv: region ", region.sizes(), " and slot or location ", other.sizes(),
      " must be contiguous, of Long, for ", locations, " locations");
}

at::Tensor drconv_gather(
    const at::Tensor& input, const at::Tensor& pattern, const at::Tensor& region,
    const at::Tensor& location, at::IntArrayRef output_size, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups) {
  const c10::cuda::CUDAGuard guard(input.device());
  const Regions r = regions(input, pattern, output_size, stride, padding, dilation);
  check_indices(r, region, location);
  const at::Tensor out = at::empty({location.numel(), 2 * r.channels}, input.options());
  for_dtype(input, [&](auto scalar, auto sum) {
    typedef decltype(scalar) scalar_t;
    typedef decltype(sum) sum_t;
    OnCuda::warps(
        location.numel(), kLanesOfWarp * sizeof(Share<sum_t>),
        Gather<scalar_t, sum_t>{
            map<scalar_t, sum_t>(r, input, pattern, region.const_data_ptr<int64_t>(), groups),
            out.data_ptr<scalar_t>(), location.const_data_ptr<int64_t>(),
            in_32_bits(region.numel())});
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor> drconv_gather_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& pattern,
    const at::Tensor& region, const at::Tensor& slot, at::IntArrayRef output_size,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups) {
  const c10::cuda::CUDAGuard guard(grad.device());
  const Regions r = regions(input, pattern, output_size, stride, padding, dilation);
  check_indices(r, region, slot);
  TORCH_CHECK(
      grad.is_contiguous() && grad.dim() == 2 && grad.size(1) == 2 * r.channels &&
          grad.scalar_type() == input.scalar_type(),
      "drconv_gather_backward: grad ", grad.sizes(), " of ", grad.scalar_type(),
      " must be (slots, ", 2 * r.channels, ") of ", input.scalar_type());
  const at::Tensor grad_input = at::empty_like(input);
  const at::Tensor grad_pattern = at::zeros_like(pattern);
  const at::Tensor by_place = at::empty({region.numel(), r.taps()}, pattern.options());
  const at::Tensor owner = at::empty_like(region);
  for_dtype(input, [&](auto scalar, auto sum) {
    typedef decltype(scalar) scalar_t;
    typedef decltype(sum) sum_t;
    typedef GatherInputGrad<scalar_t, sum_t> InputGrad;
    const auto m =
        map<scalar_t, sum_t>(r, input, pattern, region.const_data_ptr<int64_t>(), groups);
    OnCuda::warps(
        r.batch * r.map.y.size * r.map.x.size, kLanesOfWarp * sizeof(typename InputGrad::Entry),
        InputGrad{
            m, grad_input.data_ptr<scalar_t>(), grad.const_data_ptr<scalar_t>(),
            slot.const_data_ptr<int64_t>()});
    OnCuda::warps(
        region.numel(), kLanesOfWarp * sizeof(int),
        PatternGrad<scalar_t, sum_t>{
            m, by_place.data_ptr<sum_t>(), owner.data_ptr<int64_t>(),
            grad.const_data_ptr<scalar_t>(), slot.const_data_ptr<int64_t>()});
  });
  grad_pattern.view({-1, r.taps()}).index_add_(0, owner, by_place);
  return {grad_input, grad_pattern};
}

at::Tensor drconv_inner(
    const at::Tensor& products, const at::Tensor& input, const at::Tensor& pattern,
    at::IntArrayRef output_size, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation, int64_t begin, int64_t end) {
  const c10::cuda::CUDAGuard guard(products.device());
  const Regions r = regions(input, pattern, output_size, stride, padding, dilation);
  check_products(r, products, input, begin, end);
  const at::Tensor out = at::empty({end - begin, r.regions}, pattern.options());
  for_dtype(input, [&](auto scalar, auto sum) {
    typedef decltype(scalar) scalar_t;
    typedef decltype(sum) sum_t;
    OnCuda::warps(
        end - begin, kLanesOfWarp * sizeof(int),
        Inner<scalar_t, sum_t>{
            map<scalar_t, sum_t>(r, input, pattern, nullptr, 1), out.data_ptr<sum_t>(),
            products.const_data_ptr<scalar_t>(), static_cast<int>(begin)});
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(mmlearnconv, CUDA, m) {
  m.impl("drconv_sort", drconv_sort);
  m.impl("drconv_gather", drconv_gather);
  m.impl("drconv_gather_backward", drconv_gather_backward);
  m.impl("drconv_inner", drconv_inner);
}

}  // namespace mmlearnconv
