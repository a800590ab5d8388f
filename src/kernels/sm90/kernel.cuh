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
// Short code is fast code here: a launch brings about the first 64 KiB of it along, and every 48 instructions beyond
// take a read from memory the first time (docs/hopper_kernel.md). What every plan uses fits; narrow units of more than
// 8 rows are last.
//
// The plan decides everything (Plan::schedule): which units, in which order, on which CTA. So the same plan and inputs
// give the same bits.
#pragma once

#include <cstddef>

#include "kernels/sm90/instances.hpp"
#include "kernels/sm90/layout.cuh"
#include "kernels/sm90/load_kv.cuh"
#include "kernels/sm90/load_units.cuh"
#include "kernels/sm90/merge_rows.cuh"
#include "kernels/sm90/narrow.cuh"
#include "kernels/sm90/wide.cuh"

namespace trunkline::kernels::sm90 {

/// Barriers of the rings, by number.
inline constexpr int num_barriers = static_cast<int>(sizeof(Barriers) / sizeof(std::uint64_t));
__device__ __forceinline__ int arrivals_of(int barrier) {
  constexpr int narrow_warps = 4, wide_warps = 8, two_ctas = 2, everyone = 32;
  const auto at = [](std::size_t offset) { return static_cast<int>(offset / sizeof(std::uint64_t)); };
  int arrivals = 1;  // `full` of stages
  if (barrier >= at(offsetof(Barriers, narrow.k_empty))) arrivals = narrow_warps;
  if (barrier >= at(offsetof(Barriers, wide))) arrivals = 1;
  if (barrier >= at(offsetof(Barriers, wide.k_empty))) arrivals = two_ctas * wide_warps;
  if (barrier >= at(offsetof(Barriers, narrow_units))) arrivals = everyone;
  if (barrier >= at(offsetof(Barriers, narrow_units.empty))) arrivals = narrow_warps;
  if (barrier >= at(offsetof(Barriers, wide_units))) arrivals = everyone;
  if (barrier >= at(offsetof(Barriers, wide_units.empty))) arrivals = wide_warps;
  return arrivals;
}

/// Barriers [first, first + count), by a warp, a lane each. The hardware sets them up one after the other, about 70
/// cycles each, so that all warps share them at the start. `anew`: they have been used before.
__device__ __forceinline__ void init_barriers(Barriers& barriers, int first, int count, bool anew) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (lane < count) {
    auto* const barrier = reinterpret_cast<std::uint64_t*>(&barriers) + first + lane;
    if (anew) ptx::barrier_invalidate(barrier);
    ptx::barrier_init(barrier, arrivals_of(first + lane));
  }
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
  __device__ void prepare() { before_ = cuda::load_relaxed(word_); }
  /// The word leaves as it came but for its top bit: the next launch needs no reset.
  __device__ void arrive() const {
    const std::uint32_t mine = blockIdx.x == 0 ? top - (gridDim.x - 1) : 1;
    cuda::add_release(word_, mine);
  }
  __device__ void wait() {
    while (((before_ ^ cuda::load_acquire(word_)) & top) == 0) {
    }
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
  auto& shared = *reinterpret_cast<SharedMemory<head_dim>*>(cuda::dynamic_shared_memory<1024>());
  const CudaParams& params = args.params;
  const auto role = static_cast<Role>(threadIdx.x / warpgroup);
  const auto* work = reinterpret_cast<const CtaWork*>(params.plan + 1) + blockIdx.x;
  // What all begin with: both lines of the schedule and the header. They are on their way to L2 while the roles set up.
  if (threadIdx.x < 3) {
    ptx::prefetch(threadIdx.x < 2 ? reinterpret_cast<const char*>(work) + threadIdx.x * sizeof(CtaWork::Lane)
                                  : reinterpret_cast<const char*>(params.plan));
  }
  ptx::let_next_launch_start();
  constexpr int barriers_of_warp = num_barriers / (num_threads / 32);
  static_assert(num_barriers % (num_threads / 32) == 0);
  const int warp = static_cast<int>(threadIdx.x / 32);
  init_barriers(shared.barriers, warp * barriers_of_warp, barriers_of_warp, false);
  ptx::arrive_cluster();
  // Between phases: all rings are empty, also of what a neighbour has to say. Barriers are set up anew, and then all
  // CTAs have done so, and have written what they had.
  const auto next_phase = [&](auto set_up, auto meet) {
    __syncthreads();
    set_up();
    __syncthreads();
    meet();
    __syncthreads();
    work += gridDim.x;
  };
  const auto nothing = [] {};
  constexpr int written = static_cast<int>(Barrier::written), met = static_cast<int>(Barrier::met);

  // A plan of no phases still has a schedule of one, of no units.
  if (role == Role::narrow) {
    ptx::give_registers<narrow_registers>();
    if (!general && threadIdx.x == warpgroup) {
      ptx::prefetch_map(&maps.k), ptx::prefetch_map(&maps.v), ptx::prefetch_map(&maps.q);
    }
    clear_queries(shared);
    Meeting meeting(params.counters);
    for (int phase = 0;;) {
      __syncthreads();
      if (phase == 0 && threadIdx.x == warpgroup) {
        ptx::wait_for_last_launch();
        meeting.prepare();
      }
      NarrowConsumer<T, head_dim>(args, shared, work->narrow.num_stages).run(has_units(work->narrow));
      const Header header(params.plan);
      if (++phase < header.num_phases()) {
        constexpr int mine = num_barriers / 4;
        next_phase([&] { init_barriers(shared.barriers, warp % 4 * mine, mine, true); },
                   [&] {
                     if (threadIdx.x == warpgroup) meeting.arrive(), meeting.wait();
                   });
        continue;
      }
      if (header.num_merges() == 0) break;
      if (threadIdx.x >= warpgroup + 32) {
        ptx::arrive_threads(written, 3 * warpgroup);
        break;
      }
      // The first warp meets the other CTAs, while those that merge look up what.
      ptx::sync_threads(written, 3 * warpgroup);
      if (threadIdx.x == warpgroup) meeting.arrive(), meeting.wait();
      __syncwarp();
      ptx::arrive_threads(met, merge_warps * 32 + 32);
      break;
    }
  } else if (role == Role::loaders) {
    ptx::give_registers<loader_registers>();
    const auto loader = static_cast<Loader>(threadIdx.x / 32);
    const bool wide = loader == Loader::wide_kv || loader == Loader::wide_units;
    for (int phase = 0;;) {
      // All of the CTA are ready: a loader calls it while what it reads first is on its way. The plan and the block
      // table were there before the last launch, so in a chain of launches looking up overlaps the one before. What
      // consumers touch, they get from the loaders once they have waited for it.
      const auto ready = [] { __syncthreads(); };
      const CtaWork::Lane& lane = wide ? work->wide : work->narrow;
      if (loader == Loader::narrow_kv || loader == Loader::wide_kv) {
        const auto start_stages = [&](const auto& units) {
          const bool paired = units.paired() && !general;
          if (paired && phase == 0) ptx::wait_cluster();  // the neighbour's barriers are set up
          ptx::wait_for_last_launch();
          return StageWriter<head_dim>(shared, wide, units.num_stages(), paired);
        };
        if constexpr (general) {
          gather_tokens<head_dim>(args, lane, ready, start_stages);
        } else {
          load_boxes<head_dim>(args, &maps.k, &maps.v, lane, wide ? ptx::policy_normal() : ptx::policy_once(), ready,
                               start_stages);
        }
      } else if (wide) {
        load_wide_units<head_dim>(args, lane, shared, ready);
      } else {
        load_narrow_units<T, head_dim, general>(args, &maps.q, lane, shared, ready);
      }
      if (++phase >= Header(params.plan).num_phases()) break;
      next_phase(nothing, nothing);
    }
  } else {
    ptx::take_registers<wide_registers>();
    const int thread = static_cast<int>(threadIdx.x) - warpgroup * static_cast<int>(Role::wide_low);
    for (int phase = 0;;) {
      __syncthreads();
      ptx::wait_for_last_launch();  // queries may be read
      WideConsumer<T, head_dim, general>(args, shared, work->wide).run();
      const Header header(params.plan);
      if (++phase < header.num_phases()) {
        next_phase(nothing, nothing);
        continue;
      }
      if (header.num_merges() == 0) break;
      // The wide consumers have the registers to merge. What to merge is looked up while the others arrive.
      static_assert(merge_warps * 32 == 2 * warpgroup);
      ptx::arrive_threads(written, 3 * warpgroup);
      MergeRows<T, head_dim, general> rows(args, header, shared, thread / 32);
      ptx::sync_threads(met, merge_warps * 32 + 32);
      rows.run();
      break;
    }
  }
}

}  // namespace trunkline::kernels::sm90
