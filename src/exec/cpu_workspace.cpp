#include "exec/cpu_workspace.hpp"

#include <algorithm>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "base/check.hpp"
#include "exec/carver.hpp"

namespace trunkline::exec {
namespace {

std::size_t count(std::int64_t value) { return static_cast<std::size_t>(value); }

// A bad_alloc, as wherever memory runs out, that says what for.
class WorkspaceTooLarge final : public std::bad_alloc {
 public:
  WorkspaceTooLarge(std::size_t bytes, const WorkspaceSizes& sizes)
      : text_("capacity: expected a workspace that fits in memory, got one of " + std::to_string(bytes) +
              " bytes (max_requests " + std::to_string(sizes.max_requests) + ", max_query_tokens " +
              std::to_string(sizes.limits.max_query_tokens) + ", max_table_width " +
              std::to_string(sizes.max_table_width) + ")") {}
  const char* what() const noexcept override { return text_.what(); }

 private:
  std::runtime_error text_;  // copied without an exception, as exceptions must be
};

std::byte* allocate(std::size_t bytes, const WorkspaceSizes& sizes) {
  void* block = ::operator new(bytes, std::align_val_t{CpuLayout::alignment}, std::nothrow);
  if (block == nullptr) throw WorkspaceTooLarge(bytes, sizes);
  return static_cast<std::byte*>(block);
}

}  // namespace

CpuLayout CpuLayout::carve(std::byte* block, const WorkspaceSizes& sizes) {
  Carver carver(block, alignment);
  CpuLayout layout{};
  const std::size_t requests = count(sizes.max_requests);
  const std::size_t partial_rows = count(sizes.limits.max_partial_rows), heads = count(sizes.num_kv_heads);
  layout.table = carver.take<std::int32_t>(requests, count(sizes.max_table_width));
  layout.seq_lens = carver.take<std::int32_t>(requests);
  layout.partial_out = carver.take<float>(partial_rows, heads * count(sizes.head_dim));
  layout.partial_lse = carver.take<float>(partial_rows, heads);
  // Threads write their scratch all the time: a second line apart, so that a prefetched neighbour is nobody else's.
  layout.scratch_stride = round_up(sizes.scratch_bytes, 2 * alignment);
  layout.scratch = carver.take<std::byte>(count(sizes.num_workers), layout.scratch_stride);
  layout.bytes = carver.used();
  return layout;
}

void CpuMemory::Free::operator()(std::byte* block) const noexcept {
  ::operator delete(block, std::align_val_t{CpuLayout::alignment});
}

CpuMemory::CpuMemory(const WorkspaceSizes& sizes, std::byte* block) : max_requests_(sizes.max_requests) {
  if (block == nullptr) {
    block = allocate(CpuLayout::carve(nullptr, sizes).bytes, sizes);
    own_.reset(block);
  }
  layout_ = CpuLayout::carve(block, sizes);
  table_ = TableCopy(layout_.table, sizes.max_requests, sizes.max_table_width);
}

void CpuMemory::take(const Forest& forest, const Plan& plan, Stream) {
  const std::span<const std::int32_t> table_rows = forest.table_rows();
  if (forest.table().num_rows > max_requests_) {
    std::vector<std::int32_t> request_of_row(static_cast<std::size_t>(forest.table().num_rows));
    for (std::size_t request = 0; request < table_rows.size(); ++request) {
      request_of_row[table_rows[request]] = static_cast<std::int32_t>(request);
    }
    std::vector<Segment> renumbered = plan.segments;
    for (Segment& segment : renumbered) segment.table_row = request_of_row[segment.table_row];
    renumbered_segments_ = std::move(renumbered);
  }
  // From here on nothing fails.
  table_.refresh(forest);
  std::ranges::copy(forest.seq_lens(), layout_.seq_lens);
  num_requests_ = forest.num_requests();
}

}  // namespace trunkline::exec
