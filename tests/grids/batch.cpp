#include "grids/batch.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

namespace trunkline::grids {

int Batch::max_pages() const {
  std::size_t pages = 0;
  for (const auto& table : tables) pages = std::max(pages, table.size());
  return static_cast<int>(pages);
}

std::int64_t Batch::num_query_tokens() const {
  return qo_lens.empty() ? num_requests() : std::accumulate(qo_lens.begin(), qo_lens.end(), std::int64_t{0});
}

Batch batch_of(const std::vector<Prefix>& prefixes, const std::vector<int>& ends, int page_size) {
  Batch batch;
  batch.page_size = page_size;
  // A page is known by its number in the table and the prefix that its last token lies in: they fix every token before.
  std::map<std::pair<int, int>, std::int32_t> pages;
  for (const int end : ends) {
    std::vector<int> path;
    for (int prefix = end; prefix >= 0; prefix = prefixes[static_cast<std::size_t>(prefix)].parent) {
      path.push_back(prefix);
    }
    std::reverse(path.begin(), path.end());
    std::vector<int> owner;  // of each token
    for (const int prefix : path) {
      owner.insert(owner.end(), static_cast<std::size_t>(prefixes[static_cast<std::size_t>(prefix)].num_tokens),
                   prefix);
    }
    const int seq_len = static_cast<int>(owner.size());
    std::vector<std::int32_t> table;
    for (int first = 0; first < seq_len; first += page_size) {
      const int last = std::min(first + page_size, seq_len) - 1;
      const auto [page, added] =
          pages.try_emplace({first / page_size, owner[static_cast<std::size_t>(last)]}, batch.num_pages);
      batch.num_pages += added ? 1 : 0;
      table.push_back(page->second);
    }
    batch.tables.push_back(std::move(table));
    batch.seq_lens.push_back(seq_len);
  }
  return batch;
}

Batch shared_prefix(int num_requests, int shared, int unique, int page_size) {
  std::vector<Prefix> prefixes{{-1, shared}};
  std::vector<int> ends;
  for (int i = 0; i < num_requests; ++i) {
    if (unique > 0) prefixes.push_back({0, unique});
    ends.push_back(static_cast<int>(prefixes.size()) - 1);
  }
  return batch_of(prefixes, ends, page_size);
}

Batch uniform_tree(const std::vector<int>& nodes_per_level, const std::vector<int>& tokens_per_node, int page_size) {
  std::vector<Prefix> prefixes;
  int above = 0;  // first prefix of the level above
  for (std::size_t level = 0; level < nodes_per_level.size(); ++level) {
    const int first = static_cast<int>(prefixes.size());
    for (int i = 0; i < nodes_per_level[level]; ++i) {
      const int parent = level == 0 ? -1 : above + i * nodes_per_level[level - 1] / nodes_per_level[level];
      prefixes.push_back({parent, tokens_per_node[level]});
    }
    above = first;
  }
  std::vector<int> ends(prefixes.size() - static_cast<std::size_t>(above));
  std::iota(ends.begin(), ends.end(), above);
  return batch_of(prefixes, ends, page_size);
}

Batch unshared(const std::vector<int>& seq_lens, int page_size) {
  std::vector<Prefix> prefixes;
  std::vector<int> ends;
  for (const int seq_len : seq_lens) {
    ends.push_back(static_cast<int>(prefixes.size()));
    prefixes.push_back({-1, seq_len});
  }
  return batch_of(prefixes, ends, page_size);
}

}  // namespace trunkline::grids
