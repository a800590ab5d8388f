// What one tree knows about each page of the pool: who holds it, and how far it is filled.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "trunkline/page_pool.hpp"

namespace trunkline::tree {

/// One page. Slots fill from the front. committed < filled exactly while one request, the page's writer, has tokens in
/// it that are not committed; everybody else's tokens in the page end at `committed` or before.
struct PageState {
  std::int32_t num_nodes = 0;   // nodes of the tree that cover tokens in it; together they hold one reference
  std::uint16_t committed = 0;  // slots whose tokens lie in the tree
  std::uint16_t filled = 0;     // slots that are taken: whoever ends before this one cannot grow in place
};

/// References of nodes and requests to pages, kept equal to the pool's counts: a page has one reference for the tree
/// and one per request.
class PageLedger {
 public:
  explicit PageLedger(PagePool& pool) : pool_(&pool), states_(static_cast<std::size_t>(pool.num_pages())) {}

  const PagePool& pool() const noexcept { return *pool_; }
  std::int32_t page_size() const noexcept { return pool_->page_size(); }
  const PageState& state(std::int32_t page) const noexcept { return states_[static_cast<std::size_t>(page)]; }

  std::int64_t num_pages() const noexcept { return num_pages_; }
  std::int64_t filled_slots() const noexcept { return filled_slots_; }
  std::int64_t memory_bytes() const noexcept {
    return static_cast<std::int64_t>(states_.capacity() * sizeof(PageState));
  }

  // Requests.

  /// Takes free pages for a request; none of their slots is filled yet.
  void allocate(std::span<std::int32_t> pages) {
    pool_->allocate(pages);
    num_pages_ += static_cast<std::int64_t>(pages.size());
  }
  void retain(std::span<const std::int32_t> pages) { pool_->retain(pages); }
  /// A request lets go of pages that the tree or other requests hold too, and that it is not the writer of.
  void release_shared(std::span<const std::int32_t> pages) { pool_->release(pages); }
  /// A request lets go of pages that it is the writer of. Returns how many became free.
  std::int32_t release_written(std::span<const std::int32_t> pages) {
    for (const std::int32_t page : pages) {
      set_filled(page, state(page).committed);
    }
    return give_back(pages);
  }

  /// Slots [0, filled) of the page are taken.
  void set_filled(std::int32_t page, std::int32_t filled) {
    PageState& s = states_[static_cast<std::size_t>(page)];
    filled_slots_ += filled - s.filled;
    s.filled = static_cast<std::uint16_t>(filled);
  }

  // Nodes.

  /// A node covers these pages, full but for the last one, where it ends in front of slot `last_end`.
  void add_node(std::span<const std::int32_t> pages, std::int32_t last_end) {
    for (const std::int32_t page : pages) {
      PageState& s = states_[static_cast<std::size_t>(page)];
      if (s.num_nodes++ == 0) {
        pool_->retain(page);
      }
      set_committed(page, page == pages.back() ? last_end : page_size());
    }
  }
  /// A node of which the page was the last one, partly filled, has grown.
  void set_committed(std::int32_t page, std::int32_t committed) {
    PageState& s = states_[static_cast<std::size_t>(page)];
    s.committed = std::max(s.committed, static_cast<std::uint16_t>(committed));
  }
  /// A split gave this page to one more node.
  void add_half(std::int32_t page) { ++states_[static_cast<std::size_t>(page)].num_nodes; }

  /// A node that nobody holds gives up pages that are in no other node. They become free.
  std::int32_t drop_node(std::span<const std::int32_t> pages) {
    for (const std::int32_t page : pages) {
      states_[static_cast<std::size_t>(page)].num_nodes = 0;
      states_[static_cast<std::size_t>(page)].committed = 0;
      set_filled(page, 0);
    }
    return give_back(pages);
  }
  /// The same for a page that an ancestor has too, filled there up to `committed`.
  void drop_half(std::int32_t page, std::int32_t committed) {
    PageState& s = states_[static_cast<std::size_t>(page)];
    --s.num_nodes;
    s.committed = static_cast<std::uint16_t>(committed);
    set_filled(page, committed);
  }

 private:
  std::int32_t give_back(std::span<const std::int32_t> pages) {
    const std::int32_t freed = pool_->release(pages);
    num_pages_ -= freed;
    return freed;
  }

  PagePool* pool_;
  std::vector<PageState> states_;  // per page of the pool
  std::int64_t num_pages_ = 0;     // that nodes or requests of this tree hold
  std::int64_t filled_slots_ = 0;  // sum of `filled`
};

}  // namespace trunkline::tree
