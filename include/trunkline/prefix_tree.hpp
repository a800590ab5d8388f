// The index of a KV cache: which token sequences have their KV in which pages.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "trunkline/forest.hpp"
#include "trunkline/kv_ops.hpp"
#include "trunkline/page_pool.hpp"

namespace trunkline {

/// What match_prefix found: the first num_tokens tokens are cached, in ceil(num_tokens / page_size) pages. The last
/// page may be matched in part: its tokens can be read, or saved by a copy.
struct PrefixMatch {
  std::int32_t num_tokens = 0;
  std::vector<std::int32_t> pages;
};

/// What insert did. The KV of tokens [num_cached_tokens, n) is the caller's to write, through the block table.
struct Insertion {
  RequestId request = 0;
  std::int32_t num_cached_tokens = 0;
  std::optional<PageCopy> copy;  // carry out before anything is written to the request's pages
};

/// What append did.
struct Appended {
  std::optional<PageCopy> copy;             // its dst replaced the block table's entry old seq_len / page_size
  std::span<const std::int32_t> new_pages;  // added at the block table's end; a view, valid until the request changes
};

/// What commit did to the block table: entries [first_page, first_page + pages.size()) now name the pages in which
/// somebody else had cached the same tokens; the request's own were freed. Empty most of the time.
struct Committed {
  std::int32_t first_page = 0;
  std::span<const std::int32_t> pages;  // a view into the block table, valid until the request changes
};

/// Stable name of a lock, never reused.
using LockId = std::int64_t;

struct PrefixLock {
  LockId id = 0;
  std::int32_t num_tokens = 0;  // how much of the prefix was cached, and is now pinned
};

struct PrefixTreeStats {
  // Since construction.
  std::int64_t requests_inserted = 0;
  std::int64_t requests_forked = 0;
  std::int64_t prompt_tokens = 0;    // of all insertions
  std::int64_t hit_tokens = 0;       // of these, found in the cache: tokens saved
  std::int64_t page_copies = 0;      // copies asked for
  std::int64_t duplicate_pages = 0;  // freed at commit because the tokens were cached meanwhile
  std::int64_t evicted_pages = 0;
  std::int64_t evicted_nodes = 0;

  // Now.
  std::int64_t num_requests = 0;
  std::int64_t num_nodes = 0;
  std::int64_t pages_in_use = 0;  // of this pool, neither free nor cached
  std::int64_t pages_cached = 0;  // held by nothing but the cache: what evict could free
  std::int64_t pages_free = 0;
  std::int64_t peak_pages = 0;    // the most pages that were not free
  std::int64_t filled_slots = 0;  // token slots of the tree's and the requests' pages that hold a token
  std::int64_t total_slots = 0;   // all token slots of these pages

  /// hit_tokens / prompt_tokens; 0 before the first prompt.
  double hit_rate() const noexcept;
  /// Fraction of the held token slots that hold no token; 0 when no page is held.
  double fragmentation() const noexcept;
};

/// A radix tree over token ids whose values are pages, and the requests that use it.
///
/// A request has tokens, a block table with a page for every page_size of them, and a committed length. Committed
/// tokens, those whose KV is written, lie in the tree and can be matched by others; the rest is the request's own.
///
/// A page partly filled with common tokens is shared until somebody takes its next slot. The first to do so keeps the
/// page; whoever then grows from the same point, or diverges inside the page, gets a page of its own and a PageCopy.
/// Carry out copies in the order of the calls, each before KV is written for that or any later call.
///
/// The tree holds one reference to each page it caches, each request one to each page of its block table. What no
/// request and no lock holds stays cached until its pages are needed: least recently used first, the ends of sequences
/// before their beginnings. A prefix is used when a request leaves it, when a lock is taken off it, and not by
/// match_prefix.
///
/// insert and append evict what they need. When even that is not enough they throw out_of_pages, `missing()` being the
/// number of pages lacking, and nothing has changed, the cache included. Every other error is invalid_argument, naming
/// the argument; nothing has changed then either. One thread's at a time, together with its pool.
class PrefixTree {
 public:
  static constexpr std::int32_t no_limit = std::numeric_limits<std::int32_t>::max();

  /// The pool must outlive the tree. The tree gives all its pages back when destroyed.
  explicit PrefixTree(PagePool& pool);
  ~PrefixTree();
  PrefixTree(PrefixTree&&) noexcept;
  PrefixTree& operator=(PrefixTree&&) noexcept;

  const PagePool& pool() const noexcept;
  int page_size() const noexcept;

  /// The longest cached prefix of `tokens`, to the token. A question only: it neither counts as use nor holds anything.
  PrefixMatch match_prefix(std::span<const std::int32_t> tokens) const;
  /// The same, length only.
  std::int32_t match_length(std::span<const std::int32_t> tokens) const;

  /// A new request with these tokens (none is legal, negative ones are not), starting from the longest cached prefix of
  /// at most max_cached_tokens. An engine that needs logits of the last prompt token passes tokens.size() - 1.
  Insertion insert(std::span<const std::int32_t> tokens, std::int32_t max_cached_tokens = no_limit);

  /// Tokens at the end of a request, uncommitted.
  Appended append(RequestId request, std::span<const std::int32_t> tokens);

  /// The KV of the request's first num_tokens tokens is written: num_committed <= num_tokens <= seq_len. They can be
  /// matched from now on. `last_tokens`, when given, are the last of them and were not committed before: an engine that
  /// runs ahead of its device appends any number in place of a token that is still to be sampled, and names it here.
  Committed commit(RequestId request, std::int32_t num_tokens, std::span<const std::int32_t> last_tokens = {});

  /// A new request that shares every page of this one (n-best sampling, beam search). All tokens must be committed:
  /// sharing KV that is still to be written would leave open who writes it.
  RequestId fork(RequestId request);

  /// Ends a request. Its committed tokens stay cached; its own pages are free.
  void remove(RequestId request);

  /// Keeps the longest cached prefix of `tokens` (a system prompt) from eviction until unlocked. Locks count.
  PrefixLock lock(std::span<const std::int32_t> tokens);
  void unlock(LockId lock);

  /// Frees up to num_pages cached pages, least recently used first, exactly that many when so many can be freed.
  /// Returns how many it freed.
  std::int32_t evict(std::int32_t num_pages);

  /// Forgets everything: requests, locks and cache. Statistics since construction, and the order of ids, go on.
  void clear();

  bool contains(RequestId request) const noexcept;
  /// Ascending.
  std::vector<RequestId> requests() const;
  std::int32_t seq_len(RequestId request) const;
  std::int32_t num_committed(RequestId request) const;
  /// ceil(seq_len / page_size) pages; a view, valid until the request changes.
  std::span<const std::int32_t> block_table(RequestId request) const;

  /// Pages an insert or append could get: free ones and those eviction would free.
  std::int32_t num_available_pages() const noexcept;
  PrefixTreeStats stats() const noexcept;
  /// Bytes of host memory held by the tree. At most 8 per token (cached, or a request's own), 8 per page of a node, of
  /// a block table and of the pool, 400 per node at the time when there were most, 300 per request. O(nodes +
  /// requests).
  std::int64_t memory_bytes() const noexcept;

  /// Proves the invariants from scratch; throws corrupt, naming the one that fails. O(everything).
  void check_integrity() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace trunkline
