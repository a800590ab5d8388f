// Block tables of batches that share prefixes in a given way.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/grid.hpp"
#include "trunkline/forest.hpp"

namespace trunkline::tools {

enum class PageOrder : std::uint8_t { random, sequential };
/// "random", "sequential". Throws invalid_argument.
PageOrder page_order_from_string(const std::string& name);

/// A request's tokens are those of the nodes on its way from a root. Requests share a node when they name it; the last
/// node of a request may be used in part.
struct PathStep {
  int node;    // any number from 0 on; a node always has the same ancestors
  int tokens;  // that this request has of it
};
using Path = std::vector<PathStep>;

/// The paths of a grid case: one per leaf, children spread evenly over parents.
std::vector<Path> paths_of(const GridCase& shape);

/// Block tables as an engine would hold them. A page is shared by the requests that have all its tokens in common, so a
/// node that ends inside a page is copied to its children from there on.
struct SyntheticBatch {
  /// qo_lens: one per request, or one for all. unused_pages: of the cache, that no request has.
  SyntheticBatch(const std::vector<Path>& paths, std::vector<std::int32_t> qo_lens, int page_size, PageOrder order,
                 std::uint64_t seed, int unused_pages = 0);

  std::vector<std::int32_t> indptr, indices, seq_lens, qo_lens;
  std::vector<std::int32_t> page_tokens;  // per page, the tokens that some request has of it
  int page_size;
  int max_pages = 0;  // of one request

  std::int64_t num_pages() const { return static_cast<std::int64_t>(page_tokens.size()); }  // distinct, and unused
  int num_requests() const { return static_cast<int>(seq_lens.size()); }
  BlockTables tables() const { return BlockTables::csr(indptr, indices); }
  Forest forest() const;
  /// Floating-point operations: 4 * num_qo_heads * head_dim per query token and token it sees, a product for the score
  /// and one for the value.
  double operations(int num_qo_heads, int head_dim) const;
};

}  // namespace trunkline::tools
