// The value type around State.
#include "trunkline/forest.hpp"

#include <algorithm>
#include <memory>
#include <utility>

#include "forest/state.hpp"

namespace trunkline {
Forest::Forest() = default;
Forest::~Forest() = default;
Forest::Forest(const Forest& other) : impl_(other.impl_ ? std::make_unique<Impl>(*other.impl_) : nullptr) {}
Forest::Forest(Forest&&) noexcept = default;
Forest& Forest::operator=(const Forest& other) { return *this = Forest(other); }
Forest& Forest::operator=(Forest&&) noexcept = default;

// A forest without Impl has nothing, and uid 0.
int Forest::page_size() const noexcept { return impl_ ? impl_->page_size : 0; }
int Forest::num_requests() const noexcept { return impl_ ? static_cast<int>(impl_->seq_lens.size()) : 0; }
std::span<const Node> Forest::nodes() const noexcept {
  return impl_ ? std::span<const Node>(impl_->nodes) : std::span<const Node>();
}
std::span<const std::int32_t> Forest::request_order() const noexcept {
  return impl_ ? std::span<const std::int32_t>(impl_->request_order) : std::span<const std::int32_t>();
}
std::span<const std::int32_t> Forest::seq_lens() const noexcept {
  return impl_ ? std::span<const std::int32_t>(impl_->seq_lens) : std::span<const std::int32_t>();
}
std::span<const std::int32_t> Forest::qo_lens() const noexcept {
  return impl_ ? std::span<const std::int32_t>(impl_->qo_lens) : std::span<const std::int32_t>();
}
std::span<const RequestId> Forest::request_ids() const noexcept {
  return impl_ ? std::span<const RequestId>(impl_->request_ids) : std::span<const RequestId>();
}
std::span<const std::int32_t> Forest::table_rows() const noexcept {
  return impl_ ? std::span<const std::int32_t>(impl_->table_rows) : std::span<const std::int32_t>();
}
Forest::Table Forest::table() const noexcept {
  return impl_ ? Table{impl_->table.entries(), impl_->table.num_rows(), impl_->table.stride()} : Table{};
}
std::uint64_t Forest::uid() const noexcept { return impl_ ? impl_->uid : 0; }
std::uint64_t Forest::version() const noexcept { return impl_ ? impl_->version : 0; }
std::span<const Forest::TableChange> Forest::table_changes() const noexcept {
  return impl_ ? std::span<const TableChange>(impl_->changes) : std::span<const TableChange>();
}
std::int64_t Forest::num_query_tokens() const noexcept { return impl_ ? impl_->num_query_tokens : 0; }
std::int64_t Forest::total_tokens() const noexcept { return impl_ ? impl_->total_tokens : 0; }
std::int64_t Forest::distinct_tokens() const noexcept { return impl_ ? impl_->distinct_tokens : 0; }
double Forest::share() const noexcept {
  const std::int64_t distinct = distinct_tokens();
  return distinct == 0 ? 1.0 : static_cast<double>(total_tokens()) / static_cast<double>(distinct);
}

bool operator==(const Forest& a, const Forest& b) {
  if (a.page_size() != b.page_size() || !std::ranges::equal(a.seq_lens(), b.seq_lens()) ||
      !std::ranges::equal(a.qo_lens(), b.qo_lens()) || !std::ranges::equal(a.request_ids(), b.request_ids()) ||
      !std::ranges::equal(a.nodes(), b.nodes()) || !std::ranges::equal(a.request_order(), b.request_order())) {
    return false;
  }
  for (int request = 0; request < a.num_requests(); ++request) {
    const auto pages_of = [request](const Forest& forest) {
      return forest.impl_->table.pages(forest.impl_->table_rows[request]);
    };
    if (!std::ranges::equal(pages_of(a), pages_of(b))) {
      return false;
    }
  }
  return true;
}

}  // namespace trunkline
