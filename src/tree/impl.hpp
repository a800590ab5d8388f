// The state of a PrefixTree, shared by its operations (prefix_tree.cpp), statistics (stats.cpp) and self-check
// (check.cpp).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <unordered_map>

#include "tree/page_ledger.hpp"
#include "tree/radix_tree.hpp"
#include "tree/run.hpp"
#include "trunkline/prefix_tree.hpp"

namespace trunkline {

struct PrefixTree::Impl {
  struct Request {
    std::int32_t node = 0;       // holds it; ends at the last committed token
    std::int32_t committed = 0;  // tokens
    tree::Run tail;              // the tokens after them
    /// Pages of the committed tokens are the tree's; the page where they end is the request's own, or the tree's with
    /// the request as its writer, when the tail starts in it; the rest is the request's own.
    tree::Run table;

    std::int32_t seq_len() const noexcept { return committed + tail.size(); }
  };

  /// What growing from `from` to `to` tokens takes.
  struct Growth {
    std::int32_t from = 0;
    std::int32_t to = 0;
    bool copy = false;           // the last page is not the request's to fill
    std::int32_t num_pages = 0;  // to allocate, the copy's included
  };

  explicit Impl(PagePool& page_pool) : pool(&page_pool), ledger(page_pool), nodes(ledger) {}

  Request& find(RequestId request);
  const Request& find(RequestId request) const;
  Growth plan_growth(std::int32_t from, std::int64_t to, std::int32_t last_page) const;
  std::optional<PageCopy> grow(Request& request, const Growth& growth, std::span<const std::int32_t> tokens);
  void adopt_pages(Request& request, std::int32_t child, std::int32_t end, Committed& replaced);
  void remove(const Request& request);
  std::int32_t evict(std::int32_t num_pages);
  void check_requests() const;

  PagePool* pool;
  tree::PageLedger ledger;
  tree::RadixTree nodes;
  std::unordered_map<RequestId, Request> requests;
  std::map<LockId, std::int32_t> locks;  // the node held
  RequestId next_request = 0;
  LockId next_lock = 0;
  PrefixTreeStats totals;  // since construction
};

}  // namespace trunkline
