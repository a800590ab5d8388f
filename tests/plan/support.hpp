// Forests and configurations for planner tests.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "trunkline/config.hpp"
#include "trunkline/forest.hpp"
#include "trunkline/plan.hpp"

namespace trunkline::test {

inline AttentionConfig config_of(int num_qo_heads, int num_kv_heads, int page_size,
                                 Strategy strategy = Strategy::automatic) {
  AttentionConfig config;
  config.num_qo_heads = num_qo_heads;
  config.num_kv_heads = num_kv_heads;
  config.head_dim = 128;
  config.page_size = page_size;
  config.strategy = strategy;
  return config;
}

/// Level l has nodes_per_level[l] nodes of tokens_per_node[l] tokens; each node's parent is the one above it in
/// proportion, and every node of the last level is one request. Nodes without tokens and page sizes that do not divide
/// a level's tokens are not for this.
inline Forest tree_forest(std::span<const int> nodes_per_level, std::span<const int> tokens_per_node, int page_size,
                          std::span<const std::int32_t> qo_lens = {}) {
  const int num_requests = nodes_per_level.back();
  std::vector<std::int32_t> first_page(nodes_per_level.size());  // of the level's first node
  std::int32_t next_page = 0;
  int width = 0;
  for (std::size_t l = 0; l < nodes_per_level.size(); ++l) {
    first_page[l] = next_page;
    const int pages = (tokens_per_node[l] + page_size - 1) / page_size;
    next_page += nodes_per_level[l] * pages;
    width += pages;
  }
  std::vector<std::int32_t> table;
  for (std::int64_t r = 0; r < num_requests; ++r) {
    for (std::size_t l = 0; l < nodes_per_level.size(); ++l) {
      const int pages = (tokens_per_node[l] + page_size - 1) / page_size;
      const auto node = static_cast<std::int32_t>(r * nodes_per_level[l] / num_requests);
      for (int p = 0; p < pages; ++p) table.push_back(first_page[l] + node * pages + p);
    }
  }
  const std::vector<std::int32_t> seq_lens(num_requests,
                                           std::accumulate(tokens_per_node.begin(), tokens_per_node.end(), 0));
  return Forest::from_block_tables(BlockTables::dense(table, num_requests, width), seq_lens, page_size,
                                   {qo_lens, {}, 0});
}

/// `batch` requests that share `shared` tokens and have `unique` of their own.
inline Forest prefix_forest(int batch, int shared, int unique, int page_size,
                            std::span<const std::int32_t> qo_lens = {}) {
  const int nodes[] = {1, batch}, tokens[] = {shared, unique};
  return tree_forest(nodes, tokens, page_size, qo_lens);
}

/// Requests that share nothing.
inline Forest separate_forest(std::span<const std::int32_t> seq_lens, int page_size,
                              std::span<const std::int32_t> qo_lens = {}) {
  std::vector<std::int32_t> indptr{0}, pages;
  for (const std::int32_t length : seq_lens) {
    for (int p = 0; p * page_size < length; ++p) pages.push_back(static_cast<std::int32_t>(pages.size()));
    indptr.push_back(static_cast<std::int32_t>(pages.size()));
  }
  return Forest::from_block_tables(BlockTables::csr(indptr, pages), seq_lens, page_size, {qo_lens, {}, 0});
}

}  // namespace trunkline::test
