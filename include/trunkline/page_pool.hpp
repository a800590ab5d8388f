// Page numbers of a KV cache, handed out and counted. The memory behind them is never seen here.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace trunkline {

/// Reference-counted page numbers 0 .. num_pages - 1. A page is free when nobody holds it. Deterministic: the page
/// released last is handed out first, and a fresh pool counts up from 0. One thread's at a time.
///
/// Several trees and other users may share a pool, but a page that a PrefixTree holds is the tree's to give back: keep
/// a prefix with PrefixTree::lock, not with retain.
class PagePool {
 public:
  /// num_pages >= 1; page_size, in tokens, 1 to 1024. Throws invalid_argument.
  PagePool(std::int32_t num_pages, int page_size);

  std::int32_t num_pages() const noexcept { return static_cast<std::int32_t>(ref_counts_.size()); }
  int page_size() const noexcept { return page_size_; }
  std::int32_t num_free() const noexcept { return static_cast<std::int32_t>(free_.size()); }
  std::int32_t num_used() const noexcept { return num_pages() - num_free(); }
  /// The largest num_used() so far.
  std::int32_t peak_used() const noexcept { return peak_used_; }
  /// Bytes of host memory held by the pool; constant.
  std::int64_t memory_bytes() const noexcept;

  /// Takes out.size() free pages, each with one reference. All or nothing: throws out_of_pages.
  void allocate(std::span<std::int32_t> out);
  std::int32_t allocate();

  /// One more reference to each page. Throws invalid_argument for a page outside the pool or free; nothing is changed.
  void retain(std::span<const std::int32_t> pages);
  void retain(std::int32_t page) { retain({&page, 1}); }

  /// One reference less; at none the page is free, and the next allocation yields the freed pages in this order.
  /// Returns the number of pages that became free. Throws invalid_argument for a page outside the pool or released too
  /// often; nothing is changed.
  std::int32_t release(std::span<const std::int32_t> pages);
  std::int32_t release(std::int32_t page) { return release({&page, 1}); }

  /// 0 for a free page. Throws invalid_argument for a page outside the pool.
  std::int32_t ref_count(std::int32_t page) const;

 private:
  bool in_pool(std::int32_t page) const noexcept { return page >= 0 && page < num_pages(); }
  bool in_use(std::int32_t page) const noexcept {
    return in_pool(page) && ref_counts_[static_cast<std::size_t>(page)] > 0;
  }
  [[noreturn]] void refuse(std::int32_t page) const;  // throws what is wrong with releasing or retaining this page

  int page_size_;
  std::int32_t peak_used_ = 0;
  std::vector<std::int32_t> ref_counts_;
  std::vector<std::int32_t> free_;  // a stack, the next page last
};

}  // namespace trunkline
