// The whole forest in one persistent launch.
//
// One CTA per SM advances two lists of units (work item, KV head) at once: narrow ones, bound by the bytes of private
// tokens, and wide ones, bound by the products of shared tokens. Each lane has a warp that streams its KV tokens into a
// ring of stages, a warp that looks up its units, and its own consumers; nothing joins them until both lists are done.
// So private bytes flow under shared products. Then all CTAs meet once, and share the merges of what was left partial.
//
//     warps  0..3   loaders: narrow KV, wide KV, narrow units, wide units    load_kv.cuh, load_units.cuh
//     warps  4..7   narrow consumer                                          narrow.cuh
//     warps  8..15  wide consumers, 64 rows each                             wide.cuh
//
// The plan decides everything (Plan::schedule): which units, in which order, on which CTA. So the same plan and inputs
// give the same bits.
#pragma once

#include "kernels/sm90/instances.hpp"
#include "kernels/sm90/layout.cuh"
#include "kernels/sm90/load_kv.cuh"
#include "kernels/sm90/load_units.cuh"
#include "kernels/sm90/merge_rows.cuh"
#include "kernels/sm90/narrow.cuh"
#include "kernels/sm90/wide.cuh"

namespace trunkline::kernels::sm90 {

/// By the first lane of every warp, each its share; `anew` when they have been used before.
template <int head_dim>
__device__ __forceinline__ void init_barriers(SharedMemory<head_dim>& shared, bool anew) {
  if (threadIdx.x % 32 != 0) return;
  constexpr int narrow_warps = 4, wide_warps = 8;
  const auto init = [&](std::uint64_t& barrier, int arrivals) {
    if (anew) ptx::barrier_invalidate(&barrier);
    ptx::barrier_init(&barrier, arrivals);
  };
  const int i = static_cast<int>(threadIdx.x / 32);
  Barriers& b = shared.barriers;
  if (i < num_stages) {
    init(b.narrow.k_full[i], 1);
    init(b.narrow.v_full[i], 1);
    init(b.narrow.k_empty[i], narrow_warps);
    init(b.narrow.v_empty[i], narrow_warps);
    init(b.narrow_units.full[i], 32);
    init(b.narrow_units.empty[i], narrow_warps);
  } else if (i < 2 * num_stages) {
    init(b.wide.k_full[i - num_stages], 1);
    init(b.wide.v_full[i - num_stages], 1);
    init(b.wide.k_empty[i - num_stages], wide_warps);
    init(b.wide.v_empty[i - num_stages], wide_warps);
  } else if (i < 2 * num_stages + num_wide_slots) {
    init(b.wide_units.full[i - 2 * num_stages], 32);
    init(b.wide_units.empty[i - 2 * num_stages], wide_warps);
  }
  static_assert(num_narrow_slots == num_stages && 2 * num_stages + num_wide_slots <= num_threads / 32);
  ptx::barrier_init_fence();
}

/// Of the narrow units: rows that no copy fills would otherwise hold anything, even infinities.
template <int head_dim>
__device__ __forceinline__ void clear_queries(SharedMemory<head_dim>& shared) {
  auto* const to = reinterpret_cast<uint4*>(shared.narrow_q);
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x % warpgroup); i < static_cast<int>(sizeof(shared.narrow_q) / 16);
       i += warpgroup) {
    to[i] = make_uint4(0, 0, 0, 0);
  }
  ptx::fence_async();
}

/// Where all CTAs of the launch meet: what each wrote before, all may read after. By one thread of each CTA, between
/// barriers with those that wrote and that read.
class Meeting {
 public:
  __device__ explicit Meeting(std::uint32_t* word) : word_(word) {}
  /// Once, after the last launch and before this thread first arrives: until then the top bit of the word stays.
  __device__ void prepare() {
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(before_) : "l"(word_) : "memory");
  }
  /// The word leaves as it came but for its top bit: the next launch needs no reset.
  __device__ void arrive() const {
    const std::uint32_t mine = blockIdx.x == 0 ? top - (gridDim.x - 1) : 1;
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(word_), "r"(mine) : "memory");
  }
  __device__ void wait() {
    std::uint32_t now;
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(word_) : "memory");
    } while (((before_ ^ now) & top) == 0);
    before_ ^= top;
  }

 private:
  static constexpr std::uint32_t top = 0x80000000u;
  std::uint32_t* word_;
  std::uint32_t before_ = 0;
};

template <class T, int head_dim, bool general>
__global__ void __launch_bounds__(num_threads, 1)
    attend_forest(const __grid_constant__ Arguments args, const __grid_constant__ Maps maps) {
  extern __shared__ __align__(1024) std::uint8_t memory[];
  auto& shared = *reinterpret_cast<SharedMemory<head_dim>*>(memory);
  const CudaParams& params = args.params;
  const auto role = static_cast<Role>(threadIdx.x / warpgroup);
  const auto* work = reinterpret_cast<const CtaWork*>(params.plan + 1) + blockIdx.x;
  const int num_phases = params.plan->num_phases;
  const bool merges = params.plan->num_merges > 0;

  ptx::let_next_launch_start();
  init_barriers(shared, false);
  // Between phases: all rings are empty, and all CTAs have written what they had.
  const auto next_phase = [&](auto meet) {
    __syncthreads();
    meet();
    __syncthreads();
    init_barriers(shared, true);
    __syncthreads();
    work += gridDim.x;
  };
  const auto nothing = [] {};
  constexpr int written = static_cast<int>(Barrier::written), met = static_cast<int>(Barrier::met);

  // A plan of no phases still has a schedule of one, of no units.
  if (role == Role::loaders) {
    ptx::give_registers<loader_registers>();
    const auto loader = static_cast<Loader>(threadIdx.x / 32);
    const bool wide = loader == Loader::wide_kv || loader == Loader::wide_units;
    if (!general && threadIdx.x == 0) {
      ptx::prefetch_map(&maps.k), ptx::prefetch_map(&maps.v), ptx::prefetch_map(&maps.q);
    }
    for (int phase = 0;;) {
      // All of the CTA are ready, and what earlier launches wrote may be read. The plan and the block table were there
      // before the last launch: a loader looks up its first unit before it starts, so in a chain of launches that
      // overlaps the one before. What consumers touch, they get from the loaders, after this.
      const auto start = [&] {
        if (phase == 0) __syncthreads();
        ptx::wait_for_last_launch();
      };
      const CtaWork::Lane& lane = wide ? work->wide : work->narrow;
      if (loader == Loader::narrow_kv || loader == Loader::wide_kv) {
        const int split = narrow_stages(*work);
        const StageWriter<head_dim> stages(shared, wide ? shared.barriers.wide : shared.barriers.narrow,
                                           wide ? split : 0, wide ? num_stages - split : split);
        if constexpr (general) {
          gather_tokens(args, lane, stages, start);
        } else {
          load_boxes(args, &maps.k, &maps.v, lane, wide ? ptx::policy_normal() : ptx::policy_once(), stages, start);
        }
      } else if (wide) {
        load_wide_units<head_dim>(args, lane, shared, start);
      } else {
        load_narrow_units<T, head_dim, general>(args, &maps.q, lane, shared, start);
      }
      if (++phase >= num_phases) break;
      next_phase(nothing);
    }
  } else if (role == Role::narrow) {
    ptx::give_registers<narrow_registers>();
    clear_queries(shared);
    __syncthreads();
    for (int phase = 0;;) {
      NarrowConsumer<T, head_dim>(args, shared, narrow_stages(*work), num_units(work->narrow)).run();
      if (++phase >= num_phases) break;
      next_phase(nothing);
    }
    if (merges) ptx::arrive_threads(written, 3 * warpgroup);
  } else {
    ptx::take_registers<wide_registers>();
    constexpr int warps = 2 * warpgroup / 32, first = warpgroup * static_cast<int>(Role::wide_low);
    const int thread = static_cast<int>(threadIdx.x) - first;
    __syncthreads();
    Meeting meeting(params.counters);
    if (thread == 0) {
      ptx::wait_for_last_launch();
      meeting.prepare();
    }
    const auto meet = [&] {
      if (thread == 0) meeting.arrive(), meeting.wait();
    };
    for (int phase = 0;;) {
      WideConsumer<T, head_dim, general>(args, shared, narrow_stages(*work), num_units(work->wide)).run();
      if (++phase >= num_phases) break;
      next_phase(meet);
    }
    if (!merges) return;
    // The wide consumers have the registers to merge. What to merge is looked up while the others arrive.
    ptx::sync_threads(written, 3 * warpgroup);
    if (thread == 0) meeting.arrive();
    MergeRows<T, head_dim, general> rows(args, thread / 32 * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x),
                                         warps * static_cast<int>(gridDim.x));
    if (thread == 0) meeting.wait();
    ptx::sync_threads(met, 2 * warpgroup);
    rows.run();
  }
}

}  // namespace trunkline::kernels::sm90
