// The three ways to a forest: each checks what it is given and hands over the requests' pages, row by row.
#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "base/check.hpp"
#include "forest/block_tables.hpp"
#include "forest/levels.hpp"
#include "forest/state.hpp"
#include "trunkline/forest.hpp"
#include "trunkline/prefix_tree.hpp"

namespace trunkline {

Forest Forest::from_block_tables(const BlockTables& tables, std::span<const std::int32_t> seq_lens, int page_size,
                                 const BatchOptions& options) {
  forest::check_page_size(page_size);
  forest::check_tables(tables);
  require(seq_lens.size() == static_cast<std::size_t>(tables.num_requests), "seq_lens",
          std::to_string(tables.num_requests) + " entries, one per request of the tables", seq_lens.size());
  forest::check_batch(seq_lens, options);
  for (std::size_t request = 0; request < seq_lens.size(); ++request) {
    const auto available = static_cast<std::int64_t>(forest::row_of(tables, request).size());
    if (ceil_div(seq_lens[request], page_size) > available) {
      forest::refuse(forest::element("seq_lens", request),
                     "at most " + std::to_string(available * page_size) + ", the tokens of the request's " +
                         std::to_string(available) + " table entries",
                     std::to_string(seq_lens[request]));
    }
  }
  Forest result;
  result.impl_ = std::make_unique<Impl>();
  result.impl_->build(page_size, seq_lens, options, [&](std::size_t request) {
    return forest::row_of(tables, request).first(ceil_div(seq_lens[request], page_size));
  });
  return result;
}

Forest Forest::from_tree(const PrefixTree& tree, std::span<const RequestId> requests,
                         std::span<const std::int32_t> qo_lens) {
  std::vector<std::int32_t> seq_lens(requests.size());
  for (std::size_t i = 0; i < requests.size(); ++i) {
    if (!tree.contains(requests[i])) {
      forest::refuse(forest::element("requests", i), "the id of a request in the tree", std::to_string(requests[i]));
    }
    seq_lens[i] = tree.seq_len(requests[i]);
  }
  std::vector<RequestId> ids(requests.begin(), requests.end());
  std::sort(ids.begin(), ids.end());
  if (const auto twice = std::adjacent_find(ids.begin(), ids.end()); twice != ids.end()) {
    forest::refuse("requests", "every request once", std::to_string(*twice) + " twice");
  }
  const BatchOptions options{qo_lens, requests, tree.pool().num_pages()};
  forest::check_batch(seq_lens, options);
  Forest result;
  result.impl_ = std::make_unique<Impl>();
  result.impl_->build(tree.page_size(), seq_lens, options,
                      [&](std::size_t i) { return tree.block_table(requests[i]); });
  return result;
}

Forest Forest::from_levels(std::span<const Level> levels, int page_size, const BatchOptions& options) {
  forest::check_page_size(page_size);
  require(options.num_pages >= 0, "num_pages", ">= 0", options.num_pages);
  const std::vector<std::int32_t> seq_lens =
      forest::check_levels(levels, page_size, forest::max_page_of(options.num_pages));
  forest::check_batch(seq_lens, options);
  forest::LevelRows rows(levels);
  Forest result;
  result.impl_ = std::make_unique<Impl>();
  result.impl_->build(page_size, seq_lens, options, [&](std::size_t) { return rows.next(); });
  return result;
}

}  // namespace trunkline
