// Writing KV into pages, and copying pages.
#pragma once

#include <cstdint>

#include "kernels/params.hpp"

namespace trunkline::kernels::cuda {

/// A cache of pages as a copy sees it.
struct CacheParams {
  KvPlane k, v;
  std::int64_t num_pages;
  std::int32_t page_size;
  std::int32_t num_heads;
  std::int32_t head_dim;
  std::int32_t element_bytes;  // 2 or 4
};

/// Slots that fit the arguments of one launch.
inline constexpr int max_slots_per_launch = 416;

/// Rows [token, head, head_dim] of k and v into slots[token]; a slot outside the cache is skipped. `host_slots`: at
/// most max_slots_per_launch of them, in host memory, taken before the call returns. `stream` is a cudaStream_t;
/// returns a cudaError_t.
int append_kv(const CacheParams& cache, const RowsView& k, const RowsView& v, const std::int64_t* host_slots,
              std::int64_t num_tokens, void* stream);
/// The same with any number of slots in device memory.
int append_kv_device_slots(const CacheParams& cache, const RowsView& k, const RowsView& v, const std::int64_t* slots,
                           std::int64_t num_tokens, void* stream);

struct PageMove {
  std::int32_t src, dst, num_tokens;
};
inline constexpr int max_moves_per_launch = 256;

/// At most max_moves_per_launch moves, in host memory, taken before the call returns. No page is written by two of
/// them, or by one and read by another.
int copy_kv(const CacheParams& cache, const PageMove* moves, int num_moves, void* stream);

}  // namespace trunkline::kernels::cuda
