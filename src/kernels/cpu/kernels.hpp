// The CPU backend's kernels: one function per entry of a plan and KV head, compiled for every SIMD target.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/params.hpp"

namespace trunkline::kernels::cpu {

/// Memory of one thread, 64-byte aligned, at least scratch_bytes(); contents mean nothing between calls.
struct Scratch {
  void* data;
  std::size_t bytes;
};

/// The kernels of one SIMD target. Functions are pure in their outputs: the same params give the same bits whichever
/// thread runs them and in whatever order. They take no lock and allocate nothing.
struct Target {
  const char* name;  // "avx3", "avx2", "sse2", "neon", ...
  int float_lanes;   // f32 lanes of a vector
  /// Item `item` for KV heads [head_begin, head_end): to partials, or to out and lse. Heads given together are read
  /// together where that saves memory traffic; the results do not depend on it.
  void (*attend)(const AttentionParams& params, std::int32_t item, std::int32_t head_begin, std::int32_t head_end,
                 Scratch scratch);
  /// Merge `merge` for KV head `head`: partials to out and lse.
  void (*merge)(const AttentionParams& params, std::int32_t merge, std::int32_t head, Scratch scratch);
  /// Highway's name ("AVX3") of the target that this entry's own code was compiled for: proof of what a forced one
  /// runs.
  const char* (*compiled_for)();
};

/// Rows from which the many-row kernel is used, and the most rows an item may have.
inline constexpr int wide_min_rows = 9;
inline constexpr int max_item_rows = 256;

/// Targets of this build that this machine runs, best first; never empty.
std::span<const Target> targets();

std::size_t scratch_bytes(std::int32_t head_dim);

}  // namespace trunkline::kernels::cpu
