// The nodes: matching, splitting, growing, holding and evicting. Knows nothing of requests; they appear as holds.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tree/child_index.hpp"
#include "tree/page_ledger.hpp"
#include "tree/run.hpp"

namespace trunkline::tree {

/// A run of committed tokens at positions [start, end()) and the pages that cover them. The page of index `start /
/// page_size` covers the tokens before `start` too: it is the parent's own page, or a copy that supersedes it below.
struct Node {
  std::int32_t parent = -1;
  std::int32_t start = 0;
  std::int32_t num_children = 0;
  std::int32_t num_holds = 0;  // requests and locks that end here, and children that are held
  std::int32_t older = 0;      // neighbours in the order of last use, when not held
  std::int32_t newer = 0;
  bool shares_first_page = false;  // an ancestor has the first page too
  Run tokens;
  Run pages;

  std::int32_t end() const noexcept { return start + tokens.size(); }
  /// Pages that no ancestor has.
  std::int32_t num_own_pages() const noexcept { return pages.size() - shares_first_page; }
};

/// A point in the tree: `depth` tokens from the root, in (start, end] of `node`; the root at depth 0.
struct Position {
  std::int32_t node = 0;
  std::int32_t depth = 0;
};

/// Order of last use. A node joins the list when its last hold goes, after the children it held; a hold takes it and
/// its ancestors out. So every node comes after its descendants, the first of the list is always a leaf, and evicting
/// takes it from there: no clock, no heap, O(1).
///
/// What can be evicted is counted on the way. Ancestors of a held node are held, and all nodes that have a page lie on
/// one path, so a page can be evicted exactly when the topmost node that has it is not held: the sum of num_own_pages()
/// over the nodes of the list.
class RadixTree {
 public:
  static constexpr std::int32_t root = 0;

  explicit RadixTree(PageLedger& ledger);

  const Node& node(std::int32_t index) const noexcept { return nodes_[static_cast<std::size_t>(index)]; }
  /// The page of the node that covers page index `page_index`.
  std::int32_t page(std::int32_t index, std::int32_t page_index) const noexcept;
  /// One past the largest node index; free ones have start -1.
  std::int32_t num_node_indices() const noexcept { return static_cast<std::int32_t>(nodes_.size()); }
  std::int32_t num_nodes() const noexcept { return static_cast<std::int32_t>(nodes_.size() - free_.size()) - 1; }
  std::int32_t num_evictable_pages() const noexcept { return num_evictable_; }
  const ChildIndex& children() const noexcept { return children_; }
  std::int64_t memory_bytes() const noexcept;

  /// The deepest position whose tokens are a prefix of `tokens`.
  Position match(std::span<const std::int32_t> tokens) const noexcept;
  /// The child of this node on the way to `tokens`, and how many of its tokens match; none: {ChildIndex::none, 0}.
  struct Step {
    std::int32_t child;
    std::int32_t num_tokens;
  };
  Step step(std::int32_t index, std::span<const std::int32_t> tokens) const noexcept;
  /// Writes the block table of a position: ceil(depth / page_size) pages, per index the deepest node's.
  void block_table(Position at, std::span<std::int32_t> table) const noexcept;
  /// Pages that a hold at this position would take from what can be evicted.
  std::int32_t num_evictable_above(Position at) const noexcept;

  /// The node that ends at this position; splits one when there is none. The lower part keeps its index.
  std::int32_t split(Position at);
  void hold(std::int32_t index) noexcept;
  void unhold(std::int32_t index) noexcept;
  /// Puts tokens after the end of `index`, which the caller holds and to which no child leads yet. `table` is a block
  /// table up to their end. The caller's hold moves to the node returned, the same one when it could just grow.
  std::int32_t attach(std::int32_t index, Run tokens, std::span<const std::int32_t> table);

  struct Evicted {
    std::int32_t pages = 0;
    std::int32_t nodes = 0;
  };
  /// Least recently used leaves first; from the last leaf only as many pages as are still wanted, the last ones.
  Evicted evict(std::int32_t num_pages);

  /// Throws corrupt. `direct_holds[i]`: requests and locks that the caller has at node i.
  void check_integrity(std::span<const std::int32_t> direct_holds) const;

 private:
  Node& at(std::int32_t index) noexcept { return nodes_[static_cast<std::size_t>(index)]; }
  std::int32_t new_node();
  void link_after(std::int32_t older, std::int32_t index) noexcept;
  void unlink(std::int32_t index) noexcept;
  void remove_leaf(std::int32_t index);
  void trim_leaf(std::int32_t index, std::int32_t num_pages);
  std::int32_t committed_above(std::int32_t index, std::int32_t page) const noexcept;

  PageLedger* ledger_;
  std::int32_t page_size_;
  std::vector<Node> nodes_;  // the root first; in the list of last use it is the end that closes the ring
  std::vector<std::int32_t> free_;
  ChildIndex children_;
  std::int32_t num_evictable_ = 0;
};

}  // namespace trunkline::tree
