// The units (work item, KV head) of one lane of the plan on one CTA, in order.
#pragma once

#include <cstddef>

#include "kernels/cuda/rows.cuh"
#include "kernels/sm90/layout.cuh"

namespace trunkline::kernels::sm90 {

/// A CudaItem in registers, and the KV head. An empty unit has token_end 0.
struct Unit {
  int row_begin, num_rows, masked, table_row, token_begin, token_end, partial_begin, first_q;
  int head;
};

/// By a whole warp: 32 units are read at once, one per lane. The first one has a copy beside the schedule, which waits
/// for nothing else.
class Units {
 public:
  __device__ Units(const Arguments& args, const CtaWork::Lane& work)
      : args_(args), work_(work), count_(num_units(work)) {
    read(&work.first);
    head_ = __ldg(&work.first_head);
  }
  __device__ __forceinline__ int count() const { return count_; }
  /// An empty unit after the last.
  __device__ __forceinline__ Unit next() {
    const int index = next_++, at = index == 0 ? 0 : (index - 1) % 32;
    const Unit unit{of(words_[0].x, at), of(words_[0].y, at) & 0xFFFF, of(words_[0].y, at) >> 16,
                    of(words_[0].z, at), of(words_[0].w, at),          index < count_ ? of(words_[1].x, at) : 0,
                    of(words_[1].y, at), of(words_[1].z, at),          of(head_, at)};
    if (index == 0 || at == 31) read_batch(index + 1);
    return unit;
  }

 private:
  static __device__ __forceinline__ int of(int value, int lane) { return __shfl_sync(~0u, value, lane); }
  __device__ __forceinline__ void read(const CudaItem* item) {
    words_[0] = __ldg(reinterpret_cast<const int4*>(item));
    words_[1] = __ldg(reinterpret_cast<const int4*>(item) + 1);
  }
  __device__ __forceinline__ void read_batch(int first) {
    const int index = first + static_cast<int>(threadIdx.x % 32);
    if (index >= count_) return;
    const UnitPlace place(work_, index, args_.heads);
    read(cuda::plan_array<CudaItem>(args_.params.plan, args_.params.plan->items) + place.item);
    head_ = place.head;
  }
  static_assert(offsetof(CudaItem, num_rows) == 4 && offsetof(CudaItem, masked) == 6 &&
                offsetof(CudaItem, token_begin) == 12 && offsetof(CudaItem, first_q) == 24);

  const Arguments& args_;
  const CtaWork::Lane& work_;
  int count_, next_ = 0;
  int4 words_[2];
  int head_;
};

}  // namespace trunkline::kernels::sm90
