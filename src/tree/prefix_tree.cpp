#include "trunkline/prefix_tree.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.hpp"
#include "tree/impl.hpp"

namespace trunkline {
namespace {

using tree::Position;
using tree::RadixTree;

/// Tokens of a request are counted in int32, and ids are not negative.
std::int32_t check_tokens(std::span<const std::int32_t> tokens, const char* name = "tokens") {
  if (tokens.size() > static_cast<std::size_t>(PrefixTree::no_limit)) {
    require(false, name, "at most " + std::to_string(PrefixTree::no_limit) + " tokens", tokens.size());
  }
  std::int32_t signs = 0;
  for (const std::int32_t token : tokens) {
    signs |= token;
  }
  if (signs < 0) {
    const auto bad = std::find_if(tokens.begin(), tokens.end(), [](std::int32_t token) { return token < 0; });
    require(false, (name + ("[" + std::to_string(bad - tokens.begin()) + "]")).c_str(), "at least 0", *bad);
  }
  return static_cast<std::int32_t>(tokens.size());
}

}  // namespace

const PrefixTree::Impl::Request& PrefixTree::Impl::find(RequestId request) const {
  const auto found = requests.find(request);
  require(found != requests.end(), "request", "a request of this tree", request);
  return found->second;
}

PrefixTree::Impl::Request& PrefixTree::Impl::find(RequestId request) {
  return const_cast<Request&>(std::as_const(*this).find(request));
}

PrefixTree::Impl::Growth PrefixTree::Impl::plan_growth(std::int32_t from, std::int64_t to,
                                                       std::int32_t last_page) const {
  const std::int32_t page_size = ledger.page_size();
  if (to > no_limit) {
    require(false, "tokens", "a request of at most " + std::to_string(no_limit) + " tokens", to);
  }
  Growth growth{.from = from, .to = static_cast<std::int32_t>(to)};
  const std::int32_t in_page = from % page_size;
  growth.copy = to > from && in_page != 0 && ledger.state(last_page).filled != in_page;
  growth.num_pages = ceil_div(growth.to, page_size) - ceil_div(from, page_size) + growth.copy;
  return growth;
}

/// The pages are known to be there: free, or to be had by eviction.
std::optional<PageCopy> PrefixTree::Impl::grow(Request& request, const Growth& growth,
                                               std::span<const std::int32_t> tokens) {
  const std::int32_t page_size = ledger.page_size();
  evict(std::max(0, growth.num_pages - pool->num_free()));
  std::optional<PageCopy> copy;
  if (growth.copy) {
    const std::int32_t src = request.table.back();
    std::int32_t dst = 0;
    ledger.allocate({&dst, 1});
    ledger.release_shared({&src, 1});
    request.table[request.table.size() - 1] = dst;
    copy = PageCopy{src, dst, growth.from % page_size};
    ++totals.page_copies;
  }
  ledger.allocate(request.table.grow(growth.num_pages - growth.copy));
  request.tail.append(tokens);
  for (std::int32_t i = growth.from / page_size; growth.from < growth.to && i < request.table.size(); ++i) {
    ledger.set_filled(request.table[i], std::min(growth.to - i * page_size, page_size));
  }
  return copy;
}

/// The tokens up to `end` are cached in `child`, in which they end. Entries of the block table move to its pages,
/// unless the page holds later tokens of the request as well.
void PrefixTree::Impl::adopt_pages(Request& request, std::int32_t child, std::int32_t end, Committed& replaced) {
  const std::int32_t page_size = ledger.page_size();
  const std::int32_t first = nodes.node(child).start / page_size;
  const std::int32_t last = end == request.seq_len() ? request.table.size() : end / page_size;
  if (first == last) {
    return;
  }
  if (replaced.pages.empty()) {
    replaced.first_page = first;
  }
  const std::span<const std::int32_t> pages = nodes.node(child).pages.view(0, last - first);
  ledger.retain(pages);
  totals.duplicate_pages += ledger.release_written(request.table.view(first, last - first));
  std::copy(pages.begin(), pages.end(), &request.table[first]);
  replaced.pages = request.table.view(replaced.first_page, last - replaced.first_page);
}

void PrefixTree::Impl::remove(const Request& request) {
  // From the first token of the tail on, the request is its pages' writer.
  const std::int32_t num_shared = request.tail.empty() ? request.table.size() : request.committed / ledger.page_size();
  ledger.release_shared(request.table.view(0, num_shared));
  ledger.release_written(request.table.view(num_shared));
  nodes.unhold(request.node);
}

std::int32_t PrefixTree::Impl::evict(std::int32_t num_pages) {
  const RadixTree::Evicted evicted = nodes.evict(num_pages);
  totals.evicted_pages += evicted.pages;
  totals.evicted_nodes += evicted.nodes;
  return evicted.pages;
}

PrefixTree::PrefixTree(PagePool& pool) : impl_(std::make_unique<Impl>(pool)) {}
PrefixTree::PrefixTree(PrefixTree&&) noexcept = default;
PrefixTree& PrefixTree::operator=(PrefixTree&& other) noexcept {
  PrefixTree taken(std::move(other));
  std::swap(impl_, taken.impl_);  // what this tree held goes with `taken`
  return *this;
}
PrefixTree::~PrefixTree() {
  if (impl_) {
    clear();
  }
}

const PagePool& PrefixTree::pool() const noexcept { return *impl_->pool; }
int PrefixTree::page_size() const noexcept { return impl_->pool->page_size(); }

PrefixMatch PrefixTree::match_prefix(std::span<const std::int32_t> tokens) const {
  check_tokens(tokens);
  const Position at = impl_->nodes.match(tokens);
  PrefixMatch match{.num_tokens = at.depth, .pages = {}};
  match.pages.resize(static_cast<std::size_t>(ceil_div(at.depth, page_size())));
  impl_->nodes.block_table(at, match.pages);
  return match;
}

std::int32_t PrefixTree::match_length(std::span<const std::int32_t> tokens) const {
  check_tokens(tokens);
  return impl_->nodes.match(tokens).depth;
}

Insertion PrefixTree::insert(std::span<const std::int32_t> tokens, std::int32_t max_cached_tokens) {
  Impl& impl = *impl_;
  const std::int32_t num_tokens = check_tokens(tokens);
  require(max_cached_tokens >= 0, "max_cached_tokens", "at least 0", max_cached_tokens);

  const Position at = impl.nodes.match(tokens.first(static_cast<std::size_t>(std::min(num_tokens, max_cached_tokens))));
  const std::int32_t last_page = at.depth > 0 ? impl.nodes.page(at.node, (at.depth - 1) / page_size()) : 0;
  const Impl::Growth growth = impl.plan_growth(at.depth, num_tokens, last_page);
  const std::int32_t available = num_available_pages() - impl.nodes.num_evictable_above(at);
  if (growth.num_pages > available) {
    throw Error::out_of_pages("tokens", growth.num_pages, available);
  }

  const RequestId id = impl.next_request++;
  Impl::Request& request = impl.requests[id];
  request.node = impl.nodes.split(at);
  request.committed = at.depth;
  impl.nodes.hold(request.node);
  const std::span<std::int32_t> cached = request.table.grow(ceil_div(at.depth, page_size()));
  impl.nodes.block_table(at, cached);
  impl.ledger.retain(cached);
  const std::optional<PageCopy> copy = impl.grow(request, growth, tokens.subspan(static_cast<std::size_t>(at.depth)));

  ++impl.totals.requests_inserted;
  impl.totals.prompt_tokens += num_tokens;
  impl.totals.hit_tokens += at.depth;
  return {id, at.depth, copy};
}

Appended PrefixTree::append(RequestId id, std::span<const std::int32_t> tokens) {
  Impl& impl = *impl_;
  Impl::Request& request = impl.find(id);
  const std::int32_t num_tokens = check_tokens(tokens);
  const std::int32_t seq_len = request.seq_len();
  const std::int32_t num_pages = request.table.size();
  const std::int32_t last_page = num_pages > 0 ? request.table.back() : 0;
  const Impl::Growth growth = impl.plan_growth(seq_len, std::int64_t{seq_len} + num_tokens, last_page);
  if (growth.num_pages > num_available_pages()) {
    throw Error::out_of_pages("tokens", growth.num_pages, num_available_pages());
  }
  const std::optional<PageCopy> copy = impl.grow(request, growth, tokens);
  return {copy, std::as_const(request.table).view(num_pages)};
}

Committed PrefixTree::commit(RequestId id, std::int32_t num_tokens, std::span<const std::int32_t> last_tokens) {
  Impl& impl = *impl_;
  Impl::Request& request = impl.find(id);
  if (num_tokens < request.committed || num_tokens > request.seq_len()) {
    require(false, "num_tokens",
            "from " + std::to_string(request.committed) + " (committed) to " + std::to_string(request.seq_len()) +
                " (seq_len)",
            num_tokens);
  }
  const std::int32_t num_named = check_tokens(last_tokens, "last_tokens");
  const std::int32_t num_uncommitted = num_tokens - request.committed;
  if (num_named > num_uncommitted) {
    require(false, "last_tokens", "at most the " + std::to_string(num_uncommitted) + " tokens that are committed now",
            num_named);
  }
  for (std::int32_t i = 0; i < num_named; ++i) {
    request.tail[num_uncommitted - num_named + i] = last_tokens[static_cast<std::size_t>(i)];
  }
  Committed replaced;
  while (request.committed < num_tokens) {
    const std::int32_t remaining = num_tokens - request.committed;
    const RadixTree::Step next = impl.nodes.step(request.node, request.tail.view(0, remaining));
    if (next.child == tree::ChildIndex::none) {
      const auto pages = static_cast<std::size_t>(ceil_div(num_tokens, page_size()));
      request.node =
          impl.nodes.attach(request.node, request.tail.split_front(remaining), request.table.view().first(pages));
      request.committed = num_tokens;
      break;
    }
    // Somebody else committed these tokens meanwhile: go on from theirs.
    const std::int32_t end = request.committed + next.num_tokens;
    const std::int32_t child = impl.nodes.split({next.child, end});
    impl.adopt_pages(request, child, end, replaced);
    impl.nodes.hold(child);
    impl.nodes.unhold(request.node);
    request.node = child;
    request.tail.drop_front(next.num_tokens);
    request.committed = end;
  }
  return replaced;
}

RequestId PrefixTree::fork(RequestId id) {
  Impl& impl = *impl_;
  const Impl::Request& source = impl.find(id);
  if (!source.tail.empty()) {
    require(false, "request", "all " + std::to_string(source.seq_len()) + " tokens committed",
            std::to_string(source.committed) + " committed");
  }
  Impl::Request copy;
  copy.node = source.node;
  copy.committed = source.committed;
  copy.table.append(source.table.view());
  impl.ledger.retain(copy.table.view());
  impl.nodes.hold(copy.node);
  ++impl.totals.requests_forked;
  impl.requests.emplace(impl.next_request, std::move(copy));
  return impl.next_request++;
}

void PrefixTree::remove(RequestId id) {
  impl_->remove(impl_->find(id));
  impl_->requests.erase(id);
}

PrefixLock PrefixTree::lock(std::span<const std::int32_t> tokens) {
  check_tokens(tokens);
  const Position at = impl_->nodes.match(tokens);
  const std::int32_t node = impl_->nodes.split(at);
  impl_->nodes.hold(node);
  impl_->locks.emplace(impl_->next_lock, node);
  return {impl_->next_lock++, at.depth};
}

void PrefixTree::unlock(LockId lock) {
  const auto found = impl_->locks.find(lock);
  require(found != impl_->locks.end(), "lock", "a lock of this tree", lock);
  impl_->nodes.unhold(found->second);
  impl_->locks.erase(found);
}

std::int32_t PrefixTree::evict(std::int32_t num_pages) {
  require(num_pages >= 0, "num_pages", "at least 0", num_pages);
  return impl_->evict(num_pages);
}

void PrefixTree::clear() {
  for (const RequestId id : requests()) {  // ascending: the order in which pages become free is defined
    impl_->remove(impl_->find(id));
  }
  for (const auto& [id, node] : impl_->locks) {
    impl_->nodes.unhold(node);
  }
  impl_->requests.clear();
  impl_->locks.clear();
  impl_->nodes.evict(no_limit);  // not counted: nothing was in want of pages
}

bool PrefixTree::contains(RequestId request) const noexcept { return impl_->requests.contains(request); }

std::vector<RequestId> PrefixTree::requests() const {
  std::vector<RequestId> ids;
  ids.reserve(impl_->requests.size());
  for (const auto& [id, request] : impl_->requests) {
    ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  return ids;
}

std::int32_t PrefixTree::seq_len(RequestId request) const { return impl_->find(request).seq_len(); }
std::int32_t PrefixTree::num_committed(RequestId request) const { return impl_->find(request).committed; }
std::span<const std::int32_t> PrefixTree::block_table(RequestId request) const {
  return std::as_const(impl_->find(request).table).view();
}

std::int32_t PrefixTree::num_available_pages() const noexcept {
  return impl_->pool->num_free() + impl_->nodes.num_evictable_pages();
}

}  // namespace trunkline
