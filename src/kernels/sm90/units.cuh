// The units (work item, KV head) of one lane of the plan on one CTA, in order; several heads of a short item are taken
// at once.
#pragma once

#include <cstddef>

#include "kernels/cuda/rows.cuh"
#include "kernels/sm90/layout.cuh"

namespace trunkline::kernels::sm90 {

/// The plan's header, a word per lane of a warp, read where it is used: when a phase ends, and by one warp at the
/// start, which brings it into the caches. A plain read of a field would be moved to the start, where every warp waits
/// for it before all else, as the compiler wants what is the same in all lanes in a uniform register at once. So every
/// field is asked for by all lanes of the warp together.
class Header {
 public:
  __device__ explicit Header(const PlanHeader* plan)
      : word_(__ldg(reinterpret_cast<const int*>(plan) + threadIdx.x % 32)) {
    static_assert(sizeof(PlanHeader) == 32 * sizeof(int));
  }
  __device__ __forceinline__ int num_phases() const { return at(offsetof(PlanHeader, num_phases)); }
  __device__ __forceinline__ int num_merges() const { return at(offsetof(PlanHeader, num_merges)); }
  __device__ __forceinline__ int piece_rows() const { return at(offsetof(PlanHeader, piece_rows)); }
  __device__ __forceinline__ cuda::Divisor pieces() const {
    constexpr std::size_t from = offsetof(PlanHeader, pieces);
    return {static_cast<std::uint32_t>(at(from + offsetof(cuda::Divisor, multiplier))),
            at(from + offsetof(cuda::Divisor, shift)), at(from + offsetof(cuda::Divisor, divisor))};
  }
  __device__ __forceinline__ std::uint32_t query_tokens() const { return at(offsetof(PlanHeader, query_tokens)); }
  __device__ __forceinline__ std::uint32_t merges() const { return at(offsetof(PlanHeader, merges)); }
  __device__ __forceinline__ std::uint32_t merge_sources() const { return at(offsetof(PlanHeader, merge_sources)); }
  __device__ __forceinline__ std::uint32_t num_bytes() const { return at(offsetof(PlanHeader, num_bytes)); }

 private:
  __device__ __forceinline__ int at(std::size_t offset) const {
    return __shfl_sync(~0u, word_, static_cast<int>(offset / sizeof(int)));
  }
  int word_;
};

/// a / b for b > 0, where the quotient is below 2^10 or b is beyond a: a division of integers takes five times the
/// code.
__device__ __forceinline__ int small_quotient(int a, int b) {
  return static_cast<int>((static_cast<float>(a) + 0.5f) * ptx::reciprocal(static_cast<float>(b)));
}

/// A CudaItem in registers, and the KV heads [head, head + num_heads). An empty unit has token_end 0.
struct Unit {
  int row_begin, num_rows, masked, table_row, token_begin, token_end, partial_begin, first_q;
  int head, num_heads;

  /// Of the first head's tokens: the first token of the first box, boxes of them, tokens until the next head's begin.
  __device__ __forceinline__ int origin(int box_shift) const { return token_begin >> box_shift << box_shift; }
  __device__ __forceinline__ int boxes(int box_shift) const {
    return ((token_end + (1 << box_shift) - 1) >> box_shift) - (token_begin >> box_shift);
  }
  __device__ __forceinline__ int period(int box_shift) const { return boxes(box_shift) << box_shift; }
};

/// By a whole warp; `packs`: several heads at once where the item says so. 32 units are read at once, one per lane. The
/// first one has a copy beside the schedule: until it is there this warp waits for nothing, then no second read stands
/// between it and its work.
template <bool packs>
class Units {
 public:
  __device__ Units(const Arguments& args, const CtaWork::Lane& work) : args_(args) {
    static_assert(offsetof(CtaWork::Lane, items) == 32 && offsetof(CtaWork::Lane, end) == 48 &&
                  offsetof(CtaWork::Lane, paired) == 60);
    read(reinterpret_cast<const char*>(&work.first));
    const auto* const list = reinterpret_cast<const int4*>(&work.items);
    lists_ = __ldg(list);
    ends_ = __ldg(list + 1);
    head_ = lists_.y;
  }
  __device__ __forceinline__ bool more() const { return next_ < count(); }
  __device__ __forceinline__ int num_stages() const { return ends_.z; }
  __device__ __forceinline__ bool paired() const { return ends_.w != 0; }
  /// An empty unit after the last.
  __device__ __forceinline__ Unit next() {
    const int index = next_, at = index - batch_, in_run_0 = ends_.x - lists_.z;
    Unit unit{of(words_[0].x, at),
              of(words_[0].y, at) & 0xFFFF,
              of(words_[0].y, at) >> 16,
              of(words_[0].z, at),
              of(words_[0].w, at),
              more() ? of(words_[1].x, at) : 0,
              of(words_[1].y, at),
              of(words_[1].z, at),
              of(head_, at),
              1};
    if constexpr (packs) {
      const int in_run = (index < in_run_0 ? in_run_0 : count()) - index;
      unit.num_heads = min(min(of(words_[1].w, at), args_.heads.divisor - unit.head), in_run);
    }
    next_ += unit.num_heads;
    if (index == 0 || next_ - batch_ >= 32) read_batch();
    return unit;
  }

 private:
  __device__ __forceinline__ int count() const { return ends_.x - lists_.z + ends_.y - lists_.w; }
  static __device__ __forceinline__ int of(int value, int lane) { return __shfl_sync(~0u, value, lane); }
  __device__ __forceinline__ void read(const char* item) {
    words_[0] = __ldg(reinterpret_cast<const int4*>(item));
    words_[1] = __ldg(reinterpret_cast<const int4*>(item) + 1);
  }
  __device__ __forceinline__ void read_batch() {
    batch_ = next_;
    const int index = batch_ + static_cast<int>(threadIdx.x % 32), in_run_0 = ends_.x - lists_.z;
    if (index >= count()) return;
    const int unit = index < in_run_0 ? lists_.z + index : lists_.w + index - in_run_0;
    const int item = args_.heads.quotient(unit);
    read(reinterpret_cast<const char*>(args_.params.plan) + static_cast<std::uint32_t>(lists_.x) +
         item * static_cast<std::int64_t>(sizeof(CudaItem)));
    head_ = unit - item * args_.heads.divisor;
  }
  static_assert(offsetof(CudaItem, num_rows) == 4 && offsetof(CudaItem, masked) == 6 &&
                offsetof(CudaItem, token_begin) == 12 && offsetof(CudaItem, first_q) == 24 &&
                offsetof(CudaItem, heads_at_once) == 28);

  const Arguments& args_;
  int next_ = 0, batch_ = 0;  // unit that comes next, first of those read
  int4 words_[2];
  int4 lists_, ends_;  // items, first_head, begin; end, num_stages, paired: of the lane
  int head_;
};

}  // namespace trunkline::kernels::sm90
