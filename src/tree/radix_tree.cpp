#include "tree/radix_tree.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.hpp"

namespace trunkline::tree {
namespace {

/// Length of the common prefix of the first n elements.
std::int32_t common_prefix(const std::int32_t* a, const std::int32_t* b, std::int32_t n) noexcept {
  // memcmp has the vector code but does not say where; 64 tokens (256 bytes) keep its call cheap and the search short.
  constexpr std::int32_t block = 64;
  std::int32_t i = 0;
  while (n - i >= block && std::memcmp(a + i, b + i, block * sizeof(std::int32_t)) == 0) {
    i += block;
  }
  while (i < n && a[i] == b[i]) {
    ++i;
  }
  return i;
}

}  // namespace

RadixTree::RadixTree(PageLedger& ledger) : ledger_(&ledger), page_size_(ledger.page_size()), nodes_(1) {}

std::int32_t RadixTree::page(std::int32_t index, std::int32_t page_index) const noexcept {
  return node(index).pages[page_index - node(index).start / page_size_];
}

std::int64_t RadixTree::memory_bytes() const noexcept {
  std::int64_t bytes =
      static_cast<std::int64_t>(nodes_.capacity() * sizeof(Node) + free_.capacity() * sizeof(std::int32_t)) +
      children_.memory_bytes();
  for (const Node& n : nodes_) {
    bytes += n.tokens.memory_bytes() + n.pages.memory_bytes();
  }
  return bytes;
}

RadixTree::Step RadixTree::step(std::int32_t index, std::span<const std::int32_t> tokens) const noexcept {
  const std::int32_t child = tokens.empty() ? ChildIndex::none : children_.find(index, tokens.front());
  if (child == ChildIndex::none) {
    return {child, 0};
  }
  const Run& run = node(child).tokens;
  return {child,
          common_prefix(run.data(), tokens.data(), std::min(run.size(), static_cast<std::int32_t>(tokens.size())))};
}

Position RadixTree::match(std::span<const std::int32_t> tokens) const noexcept {
  Position at;
  while (at.depth == node(at.node).end()) {
    const Step next = step(at.node, tokens.subspan(static_cast<std::size_t>(at.depth)));
    if (next.child == ChildIndex::none) {
      break;
    }
    at = {next.child, at.depth + next.num_tokens};
  }
  return at;
}

void RadixTree::block_table(Position at, std::span<std::int32_t> table) const noexcept {
  std::int32_t end = static_cast<std::int32_t>(table.size());
  for (std::int32_t index = at.node; index != root; index = node(index).parent) {
    const Node& n = node(index);
    const std::int32_t begin = n.start / page_size_;
    std::copy_n(n.pages.data(), end - begin, table.data() + begin);
    end = begin;
  }
}

std::int32_t RadixTree::num_evictable_above(Position at) const noexcept {
  std::int32_t count = 0;
  std::int32_t depth = at.depth;
  for (std::int32_t index = at.node; index != root && node(index).num_holds == 0; index = node(index).parent) {
    const Node& n = node(index);
    count += ceil_div(depth, page_size_) - n.start / page_size_ - n.shares_first_page;
    depth = n.start;
  }
  return count;
}

std::int32_t RadixTree::new_node() {
  if (free_.empty()) {
    nodes_.emplace_back();
    return num_node_indices() - 1;
  }
  const std::int32_t index = free_.back();
  free_.pop_back();
  at(index) = Node{};
  return index;
}

std::int32_t RadixTree::split(Position position) {
  if (position.depth == node(position.node).end()) {
    return position.node;
  }
  const std::int32_t index = new_node();
  Node& upper = at(index);
  Node& lower = at(position.node);
  const std::int32_t first_page = lower.start / page_size_;
  const bool in_page = position.depth % page_size_ != 0;

  upper.parent = lower.parent;
  upper.start = lower.start;
  upper.num_children = 1;
  upper.num_holds = lower.num_holds > 0;
  upper.shares_first_page = lower.shares_first_page;
  upper.tokens = lower.tokens.split_front(position.depth - lower.start);
  upper.pages = lower.pages.split_front(position.depth / page_size_ - first_page);
  if (in_page) {
    upper.pages.append(lower.pages.view(0, 1));
    ledger_->add_half(lower.pages.front());
  }
  lower.parent = index;
  lower.start = position.depth;
  lower.shares_first_page = in_page;

  children_.set(upper.parent, upper.tokens.front(), index);
  children_.set(index, lower.tokens.front(), position.node);
  if (upper.num_holds == 0) {
    link_after(position.node, index);
  }
  return index;
}

void RadixTree::link_after(std::int32_t older, std::int32_t index) noexcept {
  const std::int32_t newer = node(older).newer;
  at(index).older = older;
  at(index).newer = newer;
  at(older).newer = index;
  at(newer).older = index;
}

void RadixTree::unlink(std::int32_t index) noexcept {
  const Node& n = node(index);
  at(n.older).newer = n.newer;
  at(n.newer).older = n.older;
}

void RadixTree::hold(std::int32_t index) noexcept {
  for (; index != root && at(index).num_holds++ == 0; index = node(index).parent) {
    unlink(index);
    num_evictable_ -= node(index).num_own_pages();
  }
}

void RadixTree::unhold(std::int32_t index) noexcept {
  for (; index != root && --at(index).num_holds == 0; index = node(index).parent) {
    link_after(node(root).older, index);
    num_evictable_ += node(index).num_own_pages();
  }
}

std::int32_t RadixTree::attach(std::int32_t index, Run tokens, std::span<const std::int32_t> table) {
  const std::int32_t start = node(index).end();
  const std::int32_t end = start + tokens.size();
  const std::int32_t last_end = end - (static_cast<std::int32_t>(table.size()) - 1) * page_size_;
  const auto first_page = static_cast<std::size_t>(start / page_size_);
  const bool in_page = start % page_size_ != 0;

  // A leaf that only the caller holds grows, unless the caller has its own copy of the last page.
  Node& parent = at(index);
  if (index != root && parent.num_children == 0 && parent.num_holds == 1 &&
      (!in_page || parent.pages.back() == table[first_page])) {
    if (in_page) {
      ledger_->set_committed(table[first_page],
                             std::min(end - static_cast<std::int32_t>(first_page) * page_size_, page_size_));
    }
    const std::span<const std::int32_t> new_pages = table.subspan(first_page + in_page);
    ledger_->add_node(new_pages, last_end);
    parent.pages.append(new_pages);
    parent.tokens.append(tokens.view());
    return index;
  }

  const std::int32_t child_index = new_node();
  ++at(index).num_children;
  Node& child = at(child_index);
  child.parent = index;
  child.start = start;
  child.num_holds = 1;  // the caller's; the parent keeps as many holds as before, one of them the child's now
  child.shares_first_page = in_page && ledger_->state(table[first_page]).num_nodes > 0;
  child.tokens = std::move(tokens);
  child.pages.append(table.subspan(first_page));
  ledger_->add_node(child.pages.view(), last_end);
  children_.set(index, child.tokens.front(), child_index);
  return child_index;
}

RadixTree::Evicted RadixTree::evict(std::int32_t num_pages) {
  Evicted evicted;
  num_pages = std::min(num_pages, num_evictable_);  // a node with no page of its own goes only with its ancestor's
  while (evicted.pages < num_pages) {
    const std::int32_t leaf = node(root).newer;
    const std::int32_t wanted = num_pages - evicted.pages;
    const std::int32_t own = node(leaf).num_own_pages();
    if (own <= wanted) {
      remove_leaf(leaf);
      ++evicted.nodes;
    } else {
      trim_leaf(leaf, wanted);
    }
    evicted.pages += std::min(own, wanted);
  }
  num_evictable_ -= evicted.pages;
  return evicted;
}

/// Slots of a page that nodes above this one fill.
std::int32_t RadixTree::committed_above(std::int32_t index, std::int32_t page) const noexcept {
  const std::int32_t page_begin = node(index).start / page_size_ * page_size_;
  for (std::int32_t above = node(index).parent; above != root; above = node(above).parent) {
    if (node(above).pages.back() == page) {
      return node(above).end() - page_begin;
    }
  }
  return 0;
}

void RadixTree::remove_leaf(std::int32_t index) {
  const Node& leaf = node(index);
  if (leaf.shares_first_page) {
    ledger_->drop_half(leaf.pages.front(), committed_above(index, leaf.pages.front()));
  }
  ledger_->drop_node(leaf.pages.view(leaf.shares_first_page));
  children_.erase(leaf.parent, leaf.tokens.front());
  --at(leaf.parent).num_children;
  unlink(index);
  at(index) = Node{};
  at(index).start = -1;
  free_.push_back(index);
}

void RadixTree::trim_leaf(std::int32_t index, std::int32_t num_pages) {
  Node& leaf = at(index);
  const std::int32_t kept = leaf.pages.size() - num_pages;
  ledger_->drop_node(leaf.pages.view(kept));
  leaf.pages.drop_back(num_pages);
  leaf.tokens.drop_back(leaf.end() - (leaf.start / page_size_ + kept) * page_size_);
}

}  // namespace trunkline::tree
