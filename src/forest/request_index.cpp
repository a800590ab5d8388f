#include "forest/request_index.hpp"

#include <algorithm>

namespace trunkline::forest {

std::optional<RequestId> RequestIndex::build(std::span<const Entry> entries) {
  entries_.assign(entries.begin(), entries.end());
  if (!std::is_sorted(entries_.begin(), entries_.end())) {  // ids that count up, the usual ones, are
    std::sort(entries_.begin(), entries_.end());
  }
  const auto twice =
      std::adjacent_find(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.id == b.id; });
  return twice == entries_.end() ? std::nullopt : std::optional(twice->id);
}

std::int32_t RequestIndex::find(RequestId id) const noexcept {
  const auto found = std::lower_bound(entries_.begin(), entries_.end(), Entry{id, 0});
  return found != entries_.end() && found->id == id ? found->row : -1;
}

void RequestIndex::erase_rows(std::span<const std::int32_t> requests) {
  std::erase_if(entries_, [requests](const Entry& entry) { return requests[entry.row] < 0; });
}

void RequestIndex::insert(std::span<const Entry> entries) {
  const auto old_size = static_cast<std::ptrdiff_t>(entries_.size());
  entries_.insert(entries_.end(), entries.begin(), entries.end());
  std::sort(entries_.begin() + old_size, entries_.end());
  std::inplace_merge(entries_.begin(), entries_.begin() + old_size, entries_.end());
}

}  // namespace trunkline::forest
