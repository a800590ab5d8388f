// The batch of a step with its pages numbered anew, so that KV memory is needed for these pages alone.
#pragma once

#include <cstdint>
#include <vector>

#include "trunkline/forest.hpp"

namespace trunkline::sim {

struct CompactBatch {
  /// The first requests of the forest whose distinct pages are at most max_pages together, in the same order. Pages
  /// keep their order: the n-th lowest page of the pool becomes n.
  CompactBatch(const Forest& from, std::int64_t max_pages);

  std::vector<std::int32_t> indptr, indices, seq_lens, qo_lens;
  std::int64_t num_pages = 0;  // distinct; pages are [0, num_pages)
  int max_pages = 0;           // of one request
  int num_left_out = 0;        // requests that did not fit
  Forest forest;

  int num_requests() const { return static_cast<int>(seq_lens.size()); }
  BlockTables tables() const { return BlockTables::csr(indptr, indices); }
};

}  // namespace trunkline::sim
