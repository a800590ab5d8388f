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

#include "kernels/cuda/merge.cuh"
#include "kernels/sm90/layout.cuh"
#include "kernels/sm90/load_kv.cuh"
#include "kernels/sm90/load_units.cuh"
#include "kernels/sm90/narrow.cuh"
#include "kernels/sm90/wide.cuh"

namespace trunkline::kernels::sm90 {

template <int head_dim>
__device__ void init_barriers(SharedMemory<head_dim>& shared, bool anew) {
  const auto init = [&](std::uint64_t& barrier, int arrivals) {
    if (anew) ptx::barrier_invalidate(&barrier);
    ptx::barrier_init(&barrier, arrivals);
  };
  constexpr int narrow_warps = 4, wide_warps = 8;
  for (int i = 0; i < num_stages; ++i) {
    init(shared.narrow_full[i], 1);
    init(shared.narrow_empty[i], narrow_warps);
    init(shared.k_full[i], 1);
    init(shared.k_empty[i], wide_warps);
    init(shared.v_full[i], 1);
    init(shared.v_empty[i], wide_warps);
  }
  for (int i = 0; i < num_narrow_slots; ++i) {
    init(shared.narrow_unit_full[i], 1);
    init(shared.narrow_unit_empty[i], narrow_warps);
  }
  init(shared.wide_unit_full, 1);
  init(shared.wide_unit_empty, wide_warps);
  ptx::barrier_init_fence();
}

/// Until every CTA of the launch is here; what they wrote before may be read after. By all threads of the CTA. The word
/// leaves as it came but for its top bit, which is flipped: the next launch needs no reset.
__device__ inline void meet_all_ctas(std::uint32_t* word) {
  __syncthreads();
  if (threadIdx.x == 0) {
    constexpr std::uint32_t top = 0x80000000u;
    __threadfence();
    const std::uint32_t add = blockIdx.x == 0 ? top - (gridDim.x - 1) : 1;
    const std::uint32_t before = atomicAdd(word, add);
    std::uint32_t now;
    do {
      asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(word) : "memory");
    } while (((before ^ now) & top) == 0);
    __threadfence();
  }
  __syncthreads();
}

/// The consumers' warps take the merges in turn, in pieces small enough that all of them have one.
template <class T, int head_dim>
__device__ void merge_partials(const CudaParams& params) {
  constexpr int warps = num_threads / 32 - 4;
  const AttentionParams& a = params.attention;
  const PlanHeader& plan = *params.plan;
  const auto* const tokens = cuda::plan_array<QueryToken>(params.plan, plan.query_tokens);
  const auto* const merges = cuda::plan_array<Merge>(params.plan, plan.merges);
  const auto* const sources = cuda::plan_array<std::int32_t>(params.plan, plan.merge_sources);
  const int all_warps = warps * static_cast<int>(gridDim.x);
  const int whole = plan.num_merges * a.num_kv_heads;
  int rows = max_merge_rows;
  while (rows > 1 && whole * (max_merge_rows / rows) < all_warps) rows /= 2;
  const int pieces = max_merge_rows / rows;
  const int warp = static_cast<int>(threadIdx.x / 32) - 4;
  for (int i = warp * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x); i < whole * pieces; i += all_warps) {
    const int entry = i / (a.num_kv_heads * pieces), rest = i % (a.num_kv_heads * pieces);
    const Merge merge = merges[entry];
    const int begin = rest % pieces * rows;
    if (begin >= merge.num_rows) continue;
    cuda::merge_rows<T, head_dim>(a, tokens, merge, sources + merge.source_begin, rest / pieces, begin,
                                  min(begin + rows, merge.num_rows));
  }
}

template <class T, int head_dim, bool gather>
__global__ void __launch_bounds__(num_threads, 1)
    attend_forest(const __grid_constant__ Arguments args, const __grid_constant__ CUtensorMap k_map,
                  const __grid_constant__ CUtensorMap v_map) {
  extern __shared__ __align__(1024) std::uint8_t memory[];
  auto& shared = *reinterpret_cast<SharedMemory<head_dim>*>(memory);
  const CudaParams& params = args.params;
  const auto role = static_cast<Role>(threadIdx.x / warpgroup);
  const auto* work = reinterpret_cast<const CtaWork*>(params.plan + 1) + blockIdx.x;

  if (threadIdx.x == 0) init_barriers(shared, false);
  if (!gather && threadIdx.x == 32) ptx::prefetch_map(&k_map), ptx::prefetch_map(&v_map);
  ptx::let_next_launch_start();
  ptx::wait_for_last_launch();
  const int num_phases = params.plan->num_phases;
  const bool merges = params.plan->num_merges > 0;
  __syncthreads();

  // Between phases, and before the merges: all rings are empty, all CTAs have written what they had.
  const auto end_phase = [&](int phase) {
    if (phase + 1 == num_phases && !merges) return;
    meet_all_ctas(params.counters);
    if (phase + 1 == num_phases) return;
    if (threadIdx.x == 0) init_barriers(shared, true);
    __syncthreads();
  };

  if (role == Role::loaders) {
    ptx::give_registers<loader_registers>();
    for (int phase = 0; phase < num_phases; ++phase, work += gridDim.x) {
      const int split = narrow_stages(*work);
      const auto load_kv = [&](const CtaWork::Lane& lane, auto stages) {
        if (num_units(lane) == 0) return;
        if constexpr (gather)
          gather_tokens(args, lane, stages);
        else
          load_boxes(args, &k_map, &v_map, lane, stages);
      };
      switch (static_cast<Loader>(threadIdx.x / 32)) {
        case Loader::narrow_kv:
          load_kv(work->narrow, StageWriter<false, head_dim>(shared, 0, split));
          break;
        case Loader::wide_kv:
          load_kv(work->wide, StageWriter<true, head_dim>(shared, split, num_stages - split));
          break;
        case Loader::narrow_units:
          load_narrow_units<T, head_dim>(args, work->narrow, shared);
          break;
        case Loader::wide_units:
          if (num_units(work->wide) > 0) load_wide_units<head_dim>(args, work->wide, shared);
          break;
      }
      end_phase(phase);
    }
    return;
  }
  if (role == Role::narrow) {
    ptx::give_registers<narrow_registers>();
    for (int phase = 0; phase < num_phases; ++phase, work += gridDim.x) {
      NarrowConsumer<T, head_dim>(args, shared, narrow_stages(*work), num_units(work->narrow)).run();
      end_phase(phase);
    }
    if (merges) merge_partials<T, head_dim>(params);
    return;
  }
  ptx::take_registers<wide_registers>();
  for (int phase = 0; phase < num_phases; ++phase, work += gridDim.x) {
    WideConsumer<T, head_dim>(args, shared, narrow_stages(*work), num_units(work->wide)).run();
    end_phase(phase);
  }
  if (merges) merge_partials<T, head_dim>(params);
}

}  // namespace trunkline::kernels::sm90
