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
    init(b.narrow_units.full[i], 1);
    init(b.narrow_units.empty[i], narrow_warps);
  } else if (i < 2 * num_stages) {
    init(b.wide.k_full[i - num_stages], 1);
    init(b.wide.v_full[i - num_stages], 1);
    init(b.wide.k_empty[i - num_stages], wide_warps);
    init(b.wide.v_empty[i - num_stages], wide_warps);
  } else if (i < 2 * num_stages + num_wide_slots) {
    init(b.wide_units.full[i - 2 * num_stages], 1);
    init(b.wide_units.empty[i - 2 * num_stages], wide_warps);
  }
  static_assert(num_narrow_slots == num_stages && 2 * num_stages + num_wide_slots <= num_threads / 32);
  ptx::barrier_init_fence();
}

/// Until every CTA of the launch has called this; what they wrote before may be read after. By one thread of each CTA,
/// after a barrier with those that wrote. The word leaves as it came but for its top bit: the next launch needs no
/// reset.
__device__ inline void meet_all_ctas(std::uint32_t* word) {
  constexpr std::uint32_t top = 0x80000000u;
  __threadfence();
  const std::uint32_t before = atomicAdd(word, blockIdx.x == 0 ? top - (gridDim.x - 1) : 1);
  std::uint32_t now;
  do {
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(word) : "memory");
  } while (((before ^ now) & top) == 0);
  __threadfence();
}

template <class T, int head_dim, bool general>
__global__ void __launch_bounds__(num_threads, 1)
    attend_forest(const __grid_constant__ Arguments args, const __grid_constant__ CUtensorMap k_map,
                  const __grid_constant__ CUtensorMap v_map) {
  extern __shared__ __align__(1024) std::uint8_t memory[];
  auto& shared = *reinterpret_cast<SharedMemory<head_dim>*>(memory);
  const CudaParams& params = args.params;
  const auto role = static_cast<Role>(threadIdx.x / warpgroup);
  const auto* work = reinterpret_cast<const CtaWork*>(params.plan + 1) + blockIdx.x;

  init_barriers(shared, false);
  if (!general && threadIdx.x == 32) ptx::prefetch_map(&k_map), ptx::prefetch_map(&v_map);
  ptx::let_next_launch_start();
  ptx::wait_for_last_launch();
  const int num_phases = params.plan->num_phases;
  const bool merges = params.plan->num_merges > 0;
  __syncthreads();

  // Between phases: all rings are empty, and all CTAs have written what they had.
  const auto next_phase = [&] {
    __syncthreads();
    if (threadIdx.x == 0) meet_all_ctas(params.counters);
    __syncthreads();
    init_barriers(shared, true);
    __syncthreads();
  };
  constexpr int written = static_cast<int>(Barrier::written), met = static_cast<int>(Barrier::met);

  if (role == Role::loaders) {
    ptx::give_registers<loader_registers>();
    for (int phase = 0; phase < num_phases; ++phase, work += gridDim.x) {
      const int split = narrow_stages(*work);
      switch (static_cast<Loader>(threadIdx.x / 32)) {
        case Loader::narrow_kv: {
          const StageWriter<head_dim> stages(shared, shared.barriers.narrow, 0, split);
          if (work->narrow.num_tiles == 0) break;
          if constexpr (general)
            gather_tokens(args, work->narrow, stages);
          else
            load_boxes<true>(args, &k_map, &v_map, work->narrow, stages);
          break;
        }
        case Loader::wide_kv: {
          const StageWriter<head_dim> stages(shared, shared.barriers.wide, split, num_stages - split);
          if (work->wide.num_tiles == 0) break;
          if constexpr (general)
            gather_tokens(args, work->wide, stages);
          else
            load_boxes<false>(args, &k_map, &v_map, work->wide, stages);
          break;
        }
        case Loader::narrow_units:
          load_narrow_units<T, head_dim, general>(args, work->narrow, shared);
          break;
        case Loader::wide_units:
          if (num_units(work->wide) > 0) load_wide_units<head_dim>(args, work->wide, shared);
          break;
      }
      if (phase + 1 < num_phases) next_phase();
    }
  } else if (role == Role::narrow) {
    ptx::give_registers<narrow_registers>();
    for (int phase = 0; phase < num_phases; ++phase, work += gridDim.x) {
      NarrowConsumer<T, head_dim>(args, shared, narrow_stages(*work), num_units(work->narrow)).run();
      if (phase + 1 < num_phases) next_phase();
    }
    if (merges) ptx::arrive_threads(written, 3 * warpgroup);
  } else {
    ptx::take_registers<wide_registers>();
    for (int phase = 0; phase < num_phases; ++phase, work += gridDim.x) {
      WideConsumer<T, head_dim, general>(args, shared, narrow_stages(*work), num_units(work->wide)).run();
      if (phase + 1 < num_phases) next_phase();
    }
    if (!merges) return;
    // The wide consumers have the registers to merge. What to merge is looked up before the CTAs meet.
    constexpr int warps = 2 * warpgroup / 32, first = warpgroup * static_cast<int>(Role::wide_low);
    const int warp = (static_cast<int>(threadIdx.x) - first) / 32;
    MergeList<T, head_dim> list(params, warp * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x),
                                warps * static_cast<int>(gridDim.x));
    ptx::sync_threads(written, 3 * warpgroup);
    if (threadIdx.x == first && num_phases > 0) meet_all_ctas(params.counters);
    ptx::sync_threads(met, 2 * warpgroup);
    list.run();
  }
}

}  // namespace trunkline::kernels::sm90
