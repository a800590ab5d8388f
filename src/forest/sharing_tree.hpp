// Finds what requests share: a radix tree over rows of a page table. It is what a forest is while it is being made or
// changed; `emit` turns it into the forest's depth-first arrays.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "forest/page_table.hpp"
#include "trunkline/forest.hpp"

namespace trunkline::forest {

inline constexpr std::int32_t none = -1;

/// (parent node, page of the child's first token) -> child node. Siblings differ in that page, so a descent costs one
/// look-up per node however many siblings there are.
class ChildIndex {
 public:
  /// Empties it; then up to `max_size` keys may be assigned.
  void reset(std::size_t max_size);
  /// `none` when there is no such child.
  std::int32_t find(std::int32_t parent, std::int32_t page) const noexcept;
  void assign(std::int32_t parent, std::int32_t page, std::int32_t child) noexcept;

 private:
  struct Slot {
    std::uint64_t key = 0;
    std::int32_t child = none;
  };
  std::size_t slot_of(std::uint64_t key) const noexcept;

  std::vector<Slot> slots_;  // open addressing, linear probing
  std::size_t mask_ = 0;
};

/// Nodes are numbered from 1; node 0 is the root above all roots, which holds no tokens. Between operations every node
/// is a run of tokens that all requests below it share, but not yet a maximal one: `emit` joins chains.
///
/// To change a forest: `load` its nodes, `cut` the requests that change at their first changed token, `support` all
/// that stay (so that nodes nobody is left in are known), then `insert` the changed ones again from where they were
/// cut.
class SharingTree {
 public:
  static constexpr std::int32_t root = 0;

  /// Starts from a forest's nodes (none, to build anew). The table must outlive the calls below.
  void load(const PageTable& table, int page_size, std::span<const Node> nodes);
  /// The forest's node i, or -1, in this tree's numbering; before any change.
  static constexpr std::int32_t loaded(std::int32_t node) noexcept { return node + 1; }

  /// The node at or above `node` that ends at `position` or before it, splitting the one `position` lies within.
  std::int32_t cut(std::int32_t node, std::int32_t position);
  /// The request in table row `row` holds every token down to the end of `node`.
  void support(std::int32_t node, std::int32_t row);
  /// Call once before the first insert: at most `num_inserts` follow.
  void prepare_inserts(std::size_t num_inserts);
  /// Lets a request down from the end of node `at` to position `seq_len`, comparing its pages with those of the nodes
  /// it meets. Returns the node it ends in.
  std::int32_t insert(std::int32_t row, std::int32_t seq_len, std::int32_t at);

  /// Writes the canonical depth-first arrays for the requests in `rows` (caller's order).
  ///   end_nodes  by row; in: the node of this tree it ends in, out: the forest's, -1 when it has no tokens
  void emit(std::span<const std::int32_t> rows, std::span<std::int32_t> end_nodes, std::vector<Node>& nodes,
            std::vector<std::int32_t>& request_order);

 private:
  struct Work {
    std::int32_t parent = root;
    std::int32_t begin = 0, end = 0;  // tokens
    std::int32_t row = none;          // of a request that holds these tokens; none: nobody is left
    // While emitting:
    std::int32_t num_ending = 0;  // requests that end here
    std::int32_t first_child = none, last_child = none, next_sibling = none;
    bool linked = false;          // among its parent's children
    std::int32_t emitted = none;  // the forest's node
    std::int32_t place = 0;       // in request_order, of the next request that ends here
  };

  std::int32_t page_at(std::int32_t row, std::int32_t position) const noexcept {
    return table_->row(row)[position / page_size_];
  }
  std::int32_t add(std::int32_t parent, std::int32_t begin, std::int32_t end, std::int32_t row);
  std::int32_t split(std::int32_t node, std::int32_t position);
  std::int32_t shared_until(std::int32_t row, std::int32_t seq_len, const Work& child) const noexcept;
  void link_children(std::span<const std::int32_t> rows, std::span<const std::int32_t> end_nodes);
  void emit_nodes(std::vector<Node>& nodes);

  const PageTable* table_ = nullptr;
  int page_size_ = 1;
  std::vector<Work> work_;
  std::vector<std::int32_t> open_;  // emitting: the nodes whose requests are not all placed
  ChildIndex index_;
};

}  // namespace trunkline::forest
