#include "forest/sharing_tree.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.hpp"

namespace trunkline::forest {
namespace {

constexpr std::uint64_t key_of(std::int32_t parent, std::int32_t page) noexcept {
  return std::uint64_t{static_cast<std::uint32_t>(parent)} << 32 | static_cast<std::uint32_t>(page);
}

/// Index of the first entry in which a and b differ, or count. memcmp runs at the machine's best vector width but does
/// not say where: it skips whole blocks of 256 bytes.
std::int64_t first_difference(const std::int32_t* a, const std::int32_t* b, std::int64_t count) noexcept {
  constexpr std::int64_t block = 64;
  std::int64_t i = 0;
  while (i + block <= count && std::memcmp(a + i, b + i, block * sizeof(*a)) == 0) {
    i += block;
  }
  return std::mismatch(a + i, a + count, b + i).first - a;
}

}  // namespace

void ChildIndex::reset(std::size_t max_size) {
  const std::size_t capacity = std::bit_ceil(std::max<std::size_t>(2 * max_size, 8));
  slots_.assign(capacity, Slot{});
  mask_ = capacity - 1;
}

std::size_t ChildIndex::slot_of(std::uint64_t key) const noexcept {
  // Multiplicative hashing by 2^64 / golden ratio; parents and pages are both dense small numbers, so both halves of
  // the product are folded into the index.
  const std::uint64_t mixed = (key ^ key >> 29) * 0x9E3779B97F4A7C15u;
  std::size_t slot = (mixed ^ mixed >> 32) & mask_;
  while (slots_[slot].child != none && slots_[slot].key != key) {
    slot = (slot + 1) & mask_;
  }
  return slot;
}

std::int32_t ChildIndex::find(std::int32_t parent, std::int32_t page) const noexcept {
  return slots_[slot_of(key_of(parent, page))].child;
}

void ChildIndex::assign(std::int32_t parent, std::int32_t page, std::int32_t child) noexcept {
  const std::uint64_t key = key_of(parent, page);
  slots_[slot_of(key)] = {key, child};
}

void SharingTree::load(const PageTable& table, int page_size, std::span<const Node> nodes) {
  table_ = &table;
  page_size_ = page_size;
  work_.clear();
  work_.reserve(nodes.size() + 1);
  work_.emplace_back();
  for (const Node& node : nodes) {
    add(loaded(node.parent), node.first_token, node.first_token + node.num_tokens, none);
  }
}

std::int32_t SharingTree::add(std::int32_t parent, std::int32_t begin, std::int32_t end, std::int32_t row) {
  Work& added = work_.emplace_back();
  added.parent = parent;
  added.begin = begin;
  added.end = end;
  added.row = row;
  return static_cast<std::int32_t>(work_.size()) - 1;
}

/// The head becomes the new node and the tail keeps its number, so that children and requests ending there need no
/// care.
std::int32_t SharingTree::split(std::int32_t node, std::int32_t position) {
  const Work tail = work_[node];
  const std::int32_t head = add(tail.parent, tail.begin, position, tail.row);
  work_[node].parent = head;
  work_[node].begin = position;
  return head;
}

std::int32_t SharingTree::cut(std::int32_t node, std::int32_t position) {
  while (node != root && work_[node].begin >= position) {
    node = work_[node].parent;
  }
  return work_[node].end > position ? split(node, position) : node;
}

void SharingTree::support(std::int32_t node, std::int32_t row) {
  for (; node != root && work_[node].row == none; node = work_[node].parent) {
    work_[node].row = row;
  }
}

void SharingTree::prepare_inserts(std::size_t num_inserts) {
  // An insert adds at most the head of one split and one leaf.
  work_.reserve(work_.size() + 2 * num_inserts);
  index_.reset(work_.size() + 2 * num_inserts);
  for (std::size_t i = 1; i < work_.size(); ++i) {
    const Work& node = work_[i];
    if (node.row != none) {
      index_.assign(node.parent, page_at(node.row, node.begin), static_cast<std::int32_t>(i));
    }
  }
}

std::int32_t SharingTree::insert(std::int32_t row, std::int32_t seq_len, std::int32_t at) {
  std::int32_t position = work_[at].end;
  while (position < seq_len) {
    const std::int32_t page = page_at(row, position);
    const std::int32_t child = index_.find(at, page);
    if (child == none) {
      const std::int32_t leaf = add(at, position, seq_len, row);
      index_.assign(at, page, leaf);
      return leaf;
    }
    position = shared_until(row, seq_len, work_[child]);
    if (position == work_[child].end) {
      at = child;
    } else {
      const std::int32_t head = split(child, position);
      index_.assign(at, page, head);
      index_.assign(head, page_at(work_[child].row, position), child);
      at = head;
    }
  }
  return at;
}

/// The position up to which the request holds the child's tokens, knowing that the child's first page is the request's.
std::int32_t SharingTree::shared_until(std::int32_t row, std::int32_t seq_len, const Work& child) const noexcept {
  const std::int32_t end = std::min(child.end, seq_len);
  const std::int64_t first = child.begin / page_size_ + 1;
  const std::int64_t entries = ceil_div(end, page_size_) - first;
  const std::int64_t equal =
      entries > 0 ? first_difference(table_->row(row) + first, table_->row(child.row) + first, entries) : 0;
  return static_cast<std::int32_t>(std::min<std::int64_t>(end, (first + equal) * page_size_));
}

void SharingTree::emit(std::span<const std::int32_t> rows, std::span<std::int32_t> end_nodes, std::vector<Node>& nodes,
                       std::vector<std::int32_t>& request_order) {
  link_children(rows, end_nodes);
  emit_nodes(nodes);
  request_order.resize(rows.size());
  for (std::size_t request = 0; request < rows.size(); ++request) {
    std::int32_t& end_node = end_nodes[rows[request]];
    Work& node = work_[end_node];
    request_order[node.place++] = static_cast<std::int32_t>(request);
    end_node = node.emitted;
  }
}

/// Requests come in the caller's order and each links its path up to the first node that is linked already. So children
/// stand in the order of the smallest caller's index below them, which is the canonical one, and nodes that nobody ends
/// below are never linked.
void SharingTree::link_children(std::span<const std::int32_t> rows, std::span<const std::int32_t> end_nodes) {
  work_[root].linked = true;
  for (const std::int32_t row : rows) {
    std::int32_t node = end_nodes[row];
    ++work_[node].num_ending;
    for (; !work_[node].linked; node = work_[node].parent) {
      Work& child = work_[node];
      Work& parent = work_[child.parent];
      child.linked = true;
      (parent.first_child == none ? parent.first_child : work_[parent.last_child].next_sibling) = node;
      parent.last_child = node;
    }
  }
}

void SharingTree::emit_nodes(std::vector<Node>& nodes) {
  nodes.clear();
  open_.clear();
  std::int32_t placed = work_[root].num_ending;
  std::int32_t node = work_[root].first_child;
  while (true) {
    while (node != none) {
      const auto emitted = static_cast<std::int32_t>(nodes.size());
      // A node that no request ends in has children; with one child it holds the same requests and they are one run.
      std::int32_t tail = node;
      work_[tail].emitted = emitted;
      while (work_[tail].num_ending == 0 && work_[tail].first_child == work_[tail].last_child) {
        tail = work_[tail].first_child;
        work_[tail].emitted = emitted;
      }
      const std::int32_t parent = open_.empty() ? none : work_[open_.back()].emitted;
      nodes.push_back({parent, work_[node].begin, work_[tail].end - work_[node].begin, placed, 0});
      work_[tail].place = placed;
      placed += work_[tail].num_ending;
      open_.push_back(node);
      node = work_[tail].first_child;
    }
    if (open_.empty()) {
      return;
    }
    nodes[work_[open_.back()].emitted].request_end = placed;
    node = work_[open_.back()].next_sibling;
    open_.pop_back();
  }
}

}  // namespace trunkline::forest
