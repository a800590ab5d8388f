// Compiles the kernels for every SIMD target and lists the targets by name.
#include "kernels/cpu/kernels.hpp"

#include <algorithm>
#include <array>

#include <hwy/detect_targets.h>

// Targets in between would cost compile time for little speed, and vectors without a size cannot be kept in arrays.
// Highway before 1.0.5 has nothing below SSE4 but scalars.
#ifdef HWY_SSE2
#define TRUNKLINE_X86_BASELINE HWY_SSE2
#else
#define TRUNKLINE_X86_BASELINE HWY_SSE4
#endif
#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (~(HWY_AVX3 | HWY_AVX2 | TRUNKLINE_X86_BASELINE | HWY_NEON | HWY_EMU128 | HWY_SCALAR))

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/merge-inl.hpp"
#include "kernels/cpu/narrow-inl.hpp"
#include "kernels/cpu/wide-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace trunkline::kernels::cpu::HWY_NAMESPACE {

void attend(const AttentionParams& params, std::int32_t item, std::int32_t head_begin, std::int32_t head_end,
            Scratch scratch) {
  const WorkItem& work = params.items[item];
  if (work.num_rows < wide_min_rows) return attend_narrow(params, work, head_begin, head_end, scratch);
  attend_wide(params, work, head_begin, head_end, scratch);
}

void merge(const AttentionParams& params, std::int32_t entry, std::int32_t head, Scratch scratch) {
  merge_rows(params, params.merges[entry], head, scratch);
}

const char* compiled_for() { return hwy::TargetName(HWY_TARGET); }

}  // namespace trunkline::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace trunkline::kernels::cpu {
namespace {

struct Candidate {
  std::int64_t bit;  // Highway's
  Target target;
};

#define TRUNKLINE_TARGET(BIT, SPACE, NAME)                                        \
  Candidate {                                                                     \
    BIT, { NAME, SPACE::lanes, SPACE::attend, SPACE::merge, SPACE::compiled_for } \
  }

// Best first.
constexpr Candidate candidates[] = {
#if HWY_TARGETS & HWY_AVX3
    TRUNKLINE_TARGET(HWY_AVX3, N_AVX3, "avx3"),
#endif
#if HWY_TARGETS & HWY_AVX2
    TRUNKLINE_TARGET(HWY_AVX2, N_AVX2, "avx2"),
#endif
#if HWY_TARGETS & HWY_SSE4
    TRUNKLINE_TARGET(HWY_SSE4, N_SSE4, "sse4"),
#endif
#if defined(HWY_SSE2) && (HWY_TARGETS & HWY_SSE2)
    TRUNKLINE_TARGET(HWY_SSE2, N_SSE2, "sse2"),
#endif
#if HWY_TARGETS & HWY_NEON
    TRUNKLINE_TARGET(HWY_NEON, N_NEON, "neon"),
#endif
#if HWY_TARGETS & HWY_EMU128
    TRUNKLINE_TARGET(HWY_EMU128, N_EMU128, "emu128"),
#endif
#if HWY_TARGETS & HWY_SCALAR
    TRUNKLINE_TARGET(HWY_SCALAR, N_SCALAR, "scalar"),
#endif
};

#undef TRUNKLINE_TARGET

struct Supported {
  std::array<Target, std::size(candidates)> targets{};
  std::size_t count = 0;

  Supported() {
    const std::int64_t bits = hwy::SupportedTargets() | HWY_STATIC_TARGET;
    for (const Candidate& candidate : candidates) {
      if (bits & candidate.bit) targets[count++] = candidate.target;
    }
  }
};

}  // namespace

std::span<const Target> targets() {
  static const Supported supported;
  return {supported.targets.data(), supported.count};
}

std::size_t scratch_bytes(std::int32_t head_dim) {
  // The wide kernel's arrays, at the largest number of rows and of lanes (16), shared by up to 8 heads.
  const std::size_t padded_dim = (static_cast<std::size_t>(head_dim) + 15) / 16 * 16;
  const std::size_t per_row = 2 * padded_dim + 2;                               // q^T, o^T, max, sum
  const std::size_t tile = max_tile_tokens * (2 * padded_dim + 3 * 16);         // K, V, scores
  const std::size_t floats = max_wide_rows * per_row + tile + 16 * padded_dim;  // and rows on their way in or out
  constexpr std::size_t fixed = sizeof(Visibility) + 2 * sizeof(Tile) + 32 * max_item_rows;  // and the strips
  constexpr std::size_t rounding = 64 * (16 + 4 * max_wide_heads);
  const std::size_t wide = floats * sizeof(float) + fixed + rounding;
  // The narrow kernel's: per head q and out of 8 rows, scores, and padded copies of short rows of K and V.
  constexpr std::size_t pair = 32, rows = wide_min_rows - 1;
  const std::size_t narrow_floats = 2 * rows * (padded_dim + pair) + max_tile_tokens * (rows + 2 * pair);
  const std::size_t narrow = narrow_floats * sizeof(float) + 2 * sizeof(Tile) + max_narrow_item_bytes + rounding;
  return std::max(wide, sizeof(Visibility) + narrow_heads_at_once * narrow);
}

}  // namespace trunkline::kernels::cpu
#endif
