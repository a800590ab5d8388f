#include <algorithm>
#include <array>

#include "exec/cuda/backend.hpp"
#include "exec/cuda/runtime.hpp"
#include "exec/params.hpp"
#include "kernels/cuda/kv_ops.hpp"

namespace trunkline::exec::cuda {
namespace {

using kernels::cuda::PageMove;

kernels::cuda::CacheParams to_cache(const KvView& kv) {
  return {.k = to_plane(kv.k),
          .v = to_plane(kv.v),
          .num_pages = kv.num_pages,
          .page_size = kv.page_size,
          .num_heads = kv.num_kv_heads,
          .head_dim = kv.head_dim,
          .element_bytes = static_cast<std::int32_t>(size_of(kv.dtype))};
}

void check_cache_memory(const KvView& kv) {
  check_memory(kv.k.data, kv.device.index, "kv.k");
  check_memory(kv.v.data, kv.device.index, "kv.v");
}

void check_launch(int result, const char* call) { check(static_cast<cudaError_t>(result), call); }

// Moves that one launch may carry out in any order.
class Independent {
 public:
  bool admits(const PageMove& move) const {
    if (size_ == static_cast<int>(moves_.size())) return false;
    return std::none_of(moves_.begin(), moves_.begin() + size_, [&](const PageMove& earlier) {
      return move.src == earlier.dst || move.dst == earlier.dst || move.dst == earlier.src;
    });
  }
  void add(const PageMove& move) { moves_[static_cast<std::size_t>(size_++)] = move; }
  void launch(const kernels::cuda::CacheParams& cache, Stream stream) {
    if (size_ > 0) check_launch(kernels::cuda::copy_kv(cache, moves_.data(), size_, stream.handle), "copy_kv");
    size_ = 0;
  }

 private:
  std::array<PageMove, kernels::cuda::max_moves_per_launch> moves_;
  int size_ = 0;
};

}  // namespace

void append_kv(const KvView& kv, const TensorView& k, const TensorView& v, std::span<const std::int64_t> slots,
               Stream stream) {
  if (slots.empty() || kv.num_pages == 0) return;
  const DeviceGuard guard(kv.device.index);
  check_cache_memory(kv);
  check_memory(k.data, kv.device.index, "k.data");
  check_memory(v.data, kv.device.index, "v.data");
  const kernels::cuda::CacheParams cache = to_cache(kv);
  constexpr std::size_t chunk = kernels::cuda::max_slots_per_launch;
  for (std::size_t first = 0; first < slots.size(); first += chunk) {
    const auto rows_from = [&](const TensorView& view) {
      kernels::RowsView rows = to_rows(view);
      rows.data =
          static_cast<std::byte*>(view.data) + first * static_cast<std::size_t>(view.strides[0]) * size_of(kv.dtype);
      return rows;
    };
    const auto count = static_cast<std::int64_t>(std::min(chunk, slots.size() - first));
    check_launch(
        kernels::cuda::append_kv(cache, rows_from(k), rows_from(v), slots.data() + first, count, stream.handle),
        "append_kv");
  }
}

void append_kv_device_slots(const KvView& kv, const TensorView& k, const TensorView& v, const std::int64_t* slots,
                            std::int64_t num_tokens, Stream stream) {
  if (num_tokens == 0 || kv.num_pages == 0) return;
  const DeviceGuard guard(kv.device.index);
  check_cache_memory(kv);
  check_memory(k.data, kv.device.index, "k.data");
  check_memory(v.data, kv.device.index, "v.data");
  check_memory(slots, kv.device.index, "slots");
  check_launch(
      kernels::cuda::append_kv_device_slots(to_cache(kv), to_rows(k), to_rows(v), slots, num_tokens, stream.handle),
      "append_kv");
}

void copy_kv(const KvView& kv, std::span<const PageCopy> copies, Stream stream) {
  if (copies.empty()) return;
  const DeviceGuard guard(kv.device.index);
  check_cache_memory(kv);
  const kernels::cuda::CacheParams cache = to_cache(kv);
  Independent together;
  for (const PageCopy& copy : copies) {
    const PageMove move{copy.src, copy.dst, copy.num_tokens};
    if (move.num_tokens == 0) continue;
    if (!together.admits(move)) together.launch(cache, stream);
    together.add(move);
  }
  together.launch(cache, stream);
}

}  // namespace trunkline::exec::cuda
