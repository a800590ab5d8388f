// The block tables of a grid case.
#pragma once

#include <cstdint>
#include <vector>

#include "common/grid.hpp"
#include "trunkline/forest.hpp"

namespace trunkline::tools {

enum class PageOrder : std::uint8_t { random, sequential };
/// "random", "sequential". Throws invalid_argument.
PageOrder page_order_from_string(const std::string& name);

/// Block tables as an engine would hold them. A page is shared by the requests that have all its tokens in common, so a
/// node that ends inside a page is copied to its children from there on.
struct SyntheticBatch {
  SyntheticBatch(const GridCase& shape, PageOrder order, std::uint64_t seed);

  std::vector<std::int32_t> indptr, indices, seq_lens, qo_lens;
  int page_size;
  std::int64_t num_pages = 0;  // distinct; pages are [0, num_pages)
  int max_pages = 0;           // of one request

  BlockTables tables() const { return BlockTables::csr(indptr, indices); }
  Forest forest() const;
};

}  // namespace trunkline::tools
