#include "exec/workspace.hpp"

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

#include "base/check.hpp"

namespace trunkline {
namespace exec {
namespace {

// Hands out aligned runs of a block; with a null block, of address 0, whose addresses are then offsets.
class Carver {
 public:
  explicit Carver(std::byte* block) : block_(block) {}

  template <class T>
  T* take(std::size_t count, std::size_t each = 1) {
    std::size_t elements = 0, bytes = 0, end = 0;
    const bool overflow = __builtin_mul_overflow(count, each, &elements) ||
                          __builtin_mul_overflow(elements, sizeof(T), &bytes) ||
                          __builtin_add_overflow(bytes, used_ + block_alignment, &end);
    require(!overflow && end < std::size_t{std::numeric_limits<std::ptrdiff_t>::max()}, "capacity",
            "a workspace that fits the address space", "more bytes than that");
    auto* result = reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(block_) + used_);
    used_ = round_up(used_ + bytes, block_alignment);
    return result;
  }

  std::size_t used() const { return used_; }

 private:
  std::byte* block_;
  std::size_t used_ = 0;
};

std::size_t count(std::int64_t value) { return static_cast<std::size_t>(value); }

}  // namespace

WorkspaceLayout carve(std::byte* block, const WorkspaceSizes& sizes) {
  Carver carver(block);
  WorkspaceLayout layout{};
  const std::size_t requests = count(sizes.max_requests);
  const std::size_t partial_rows = count(sizes.max_partial_rows), heads = count(sizes.num_kv_heads);
  layout.table = carver.take<std::int32_t>(requests, count(sizes.max_table_width));
  layout.seq_lens = carver.take<std::int32_t>(requests);
  layout.partial_out = carver.take<float>(partial_rows, heads * count(sizes.head_dim));
  layout.partial_lse = carver.take<float>(partial_rows, heads);
  // Threads write their scratch all the time: a second line apart, so that a prefetched neighbour is nobody else's.
  layout.scratch_stride = round_up(sizes.scratch_bytes, 2 * block_alignment);
  layout.scratch = carver.take<std::byte>(count(sizes.num_threads), layout.scratch_stride);
  layout.bytes = carver.used();
  return layout;
}

}  // namespace exec

void Workspace::Impl::Free::operator()(std::byte* block) const noexcept {
  ::operator delete(block, std::align_val_t{exec::block_alignment});
}

Workspace::Impl::Impl(const exec::WorkspaceSizes& workspace_sizes, std::byte* block) : sizes(workspace_sizes) {
  if (block == nullptr) {
    const std::size_t bytes = exec::carve(nullptr, sizes).bytes;
    block = static_cast<std::byte*>(::operator new(bytes, std::align_val_t{exec::block_alignment}));
    own.reset(block);
  }
  layout = exec::carve(block, sizes);
  table = exec::TableCopy(layout.table, sizes.max_requests, sizes.max_table_width);
}

void Workspace::Impl::adopt_spare(const Forest& forest) {
  const std::span<const std::int32_t> table_rows = forest.table_rows();
  if (forest.table().num_rows > sizes.max_requests) {
    std::vector<std::int32_t> request_of_row(static_cast<std::size_t>(forest.table().num_rows));
    for (std::size_t request = 0; request < table_rows.size(); ++request) {
      request_of_row[table_rows[request]] = static_cast<std::int32_t>(request);
    }
    std::vector<Segment> renumbered = spare.segments;
    for (Segment& segment : renumbered) segment.table_row = request_of_row[segment.table_row];
    renumbered_segments = std::move(renumbered);
  }
  // From here on nothing fails.
  table.refresh(forest);
  std::ranges::copy(forest.seq_lens(), layout.seq_lens);
  num_requests = forest.num_requests();
  num_query_tokens = forest.num_query_tokens();
  std::swap(plan, spare);
  planned = true;
}

}  // namespace trunkline
