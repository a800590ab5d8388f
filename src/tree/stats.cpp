// What a PrefixTree reports of itself.
#include <utility>

#include "tree/impl.hpp"

namespace trunkline {

double PrefixTreeStats::hit_rate() const noexcept {
  return prompt_tokens > 0 ? static_cast<double>(hit_tokens) / static_cast<double>(prompt_tokens) : 0.0;
}

double PrefixTreeStats::fragmentation() const noexcept {
  return total_slots > 0 ? 1.0 - static_cast<double>(filled_slots) / static_cast<double>(total_slots) : 0.0;
}

PrefixTreeStats PrefixTree::stats() const noexcept {
  PrefixTreeStats stats = impl_->totals;
  stats.num_requests = static_cast<std::int64_t>(impl_->requests.size());
  stats.num_nodes = impl_->nodes.num_nodes();
  stats.pages_cached = impl_->nodes.num_evictable_pages();
  stats.pages_free = impl_->pool->num_free();
  stats.pages_in_use = impl_->pool->num_used() - stats.pages_cached;
  stats.peak_pages = impl_->pool->peak_used();
  stats.filled_slots = impl_->ledger.filled_slots();
  stats.total_slots = impl_->ledger.num_pages() * page_size();
  return stats;
}

std::int64_t PrefixTree::memory_bytes() const noexcept {
  // An entry of an unordered_map is its value, a link and its share of the buckets.
  constexpr std::int64_t request_bytes = sizeof(std::pair<const RequestId, Impl::Request>) + 2 * sizeof(void*);
  std::int64_t bytes = static_cast<std::int64_t>(sizeof(Impl)) + impl_->nodes.memory_bytes() +
                       impl_->ledger.memory_bytes() +
                       static_cast<std::int64_t>(impl_->requests.bucket_count() * sizeof(void*));
  for (const auto& [id, request] : impl_->requests) {
    bytes += request_bytes + request.tail.memory_bytes() + request.table.memory_bytes();
  }
  return bytes;
}

}  // namespace trunkline
