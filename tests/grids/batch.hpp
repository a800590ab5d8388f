// Batches as trees of prefixes, at the granularity of tokens, turned into block tables.
#pragma once

#include <cstdint>
#include <vector>

namespace trunkline::grids {

/// Block tables and lengths of a batch. Pages are numbered in order of first use; whoever makes memory for them may
/// number them anew.
struct Batch {
  int page_size = 0;
  int num_pages = 0;
  std::vector<std::vector<std::int32_t>> tables;  // per request, ceil(seq_len / page_size) pages
  std::vector<std::int32_t> seq_lens;
  std::vector<std::int32_t> qo_lens;  // empty: 1 each

  int num_requests() const { return static_cast<int>(seq_lens.size()); }
  int max_pages() const;
  std::int64_t num_query_tokens() const;
};

/// A run of tokens after its parent's. Parents come before children.
struct Prefix {
  int parent = -1;
  int num_tokens = 0;
};

/// Request i holds the tokens from the root down to prefixes[ends[i]]; an end of -1 is a request without tokens. Two
/// requests have a page in common when they agree on every token of it that both hold.
Batch batch_of(const std::vector<Prefix>& prefixes, const std::vector<int>& ends, int page_size);

/// `num_requests` requests of `shared` common tokens, then `unique` of their own.
Batch shared_prefix(int num_requests, int shared, int unique, int page_size);

/// A tree of nodes_per_level[0] roots, each level's nodes spread evenly under those of the level above, every node
/// of level i with tokens_per_node[i] tokens, one request at each leaf.
Batch uniform_tree(const std::vector<int>& nodes_per_level, const std::vector<int>& tokens_per_node, int page_size);

/// Requests of these lengths that have nothing in common.
Batch unshared(const std::vector<int>& seq_lens, int page_size);

}  // namespace trunkline::grids
