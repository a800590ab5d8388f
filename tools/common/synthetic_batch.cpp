#include "common/synthetic_batch.hpp"

#include <algorithm>
#include <numeric>

#include "common/random.hpp"
#include "trunkline/error.hpp"

namespace trunkline::tools {

PageOrder page_order_from_string(const std::string& name) {
  if (name == "random") return PageOrder::random;
  if (name == "sequential") return PageOrder::sequential;
  throw Error(ErrorCode::invalid_argument, "page-order", "random or sequential", "'" + name + "'");
}

std::vector<Path> paths_of(const GridCase& shape) {
  std::vector<Path> paths(static_cast<std::size_t>(shape.num_requests()));
  for (std::size_t request = 0; request < paths.size(); ++request) {
    // An ancestor's index is the request's, scaled down level by level; node numbers run through the levels.
    std::size_t index = request;
    int nodes_above = 0;
    for (const GridLevel& level : shape.levels) nodes_above += level.num_nodes;
    for (std::size_t level = shape.levels.size(); level-- > 0;) {
      const GridLevel& here = shape.levels[level];
      nodes_above -= here.num_nodes;
      paths[request].push_back({nodes_above + static_cast<int>(index), here.tokens_per_node});
      if (level > 0) {
        index = index * static_cast<std::size_t>(shape.levels[level - 1].num_nodes) /
                static_cast<std::size_t>(here.num_nodes);
      }
    }
    std::reverse(paths[request].begin(), paths[request].end());
  }
  return paths;
}

namespace {

/// Hands out pages. A page belongs to the node that holds its last token: exactly the requests that have this token
/// have all of the page in common.
class PageNames {
 public:
  std::int32_t page_of(int node, int index) {
    if (static_cast<std::size_t>(node) >= nodes_.size()) nodes_.resize(static_cast<std::size_t>(node) + 1);
    Owned& owned = nodes_[static_cast<std::size_t>(node)];
    if (owned.pages.empty()) owned.first = index;
    const auto at = static_cast<std::size_t>(index - owned.first);
    if (at == owned.pages.size()) owned.pages.push_back(num_pages_++);
    return owned.pages[at];
  }

 private:
  struct Owned {
    int first = 0;  // index in the requests' tables of pages[0]
    std::vector<std::int32_t> pages;
  };
  std::vector<Owned> nodes_;
  std::int32_t num_pages_ = 0;
};

}  // namespace

SyntheticBatch::SyntheticBatch(const std::vector<Path>& paths, std::vector<std::int32_t> query_lens,
                               int tokens_per_page, PageOrder order, std::uint64_t seed, int unused_pages)
    : qo_lens(std::move(query_lens)), page_size(tokens_per_page) {
  if (qo_lens.size() == 1) qo_lens.resize(paths.size(), qo_lens[0]);
  PageNames names;
  indptr.push_back(0);
  for (const Path& path : paths) {
    int seq_len = 0;
    for (const PathStep& step : path) seq_len += step.tokens;
    const int pages = (seq_len + page_size - 1) / page_size;
    std::size_t step = 0;
    int step_end = path.empty() ? 0 : path[0].tokens;
    for (int index = 0; index < pages; ++index) {
      const int end = std::min((index + 1) * page_size, seq_len);
      while (step_end < end) step_end += path[++step].tokens;
      const std::int32_t page = names.page_of(path[step].node, index);
      indices.push_back(page);
      if (static_cast<std::size_t>(page) >= page_tokens.size())
        page_tokens.resize(static_cast<std::size_t>(page) + 1, 0);
      std::int32_t& used = page_tokens[static_cast<std::size_t>(page)];
      used = std::max(used, end - index * page_size);
    }
    seq_lens.push_back(seq_len);
    indptr.push_back(static_cast<std::int32_t>(indices.size()));
    max_pages = std::max(max_pages, pages);
  }
  page_tokens.resize(page_tokens.size() + static_cast<std::size_t>(unused_pages), 0);
  if (order == PageOrder::sequential) return;
  std::vector<std::int32_t> shuffled(page_tokens.size());
  std::iota(shuffled.begin(), shuffled.end(), 0);
  std::shuffle(shuffled.begin(), shuffled.end(), Random(seed));
  std::vector<std::int32_t> shuffled_tokens(page_tokens.size());
  for (std::size_t page = 0; page < shuffled.size(); ++page) {
    shuffled_tokens[static_cast<std::size_t>(shuffled[page])] = page_tokens[page];
  }
  page_tokens = std::move(shuffled_tokens);
  for (auto& page : indices) page = shuffled[static_cast<std::size_t>(page)];
}

double SyntheticBatch::operations(int num_qo_heads, int head_dim) const {
  double visible = 0;
  for (std::size_t request = 0; request < seq_lens.size(); ++request) {
    const double queries = qo_lens[request];
    visible += queries * seq_lens[request] - queries * (queries - 1) / 2;
  }
  return 4.0 * head_dim * num_qo_heads * visible;
}

Forest SyntheticBatch::forest() const {
  BatchOptions options;
  options.qo_lens = qo_lens;
  options.num_pages = num_pages();
  return Forest::from_block_tables(tables(), seq_lens, page_size, options);
}

}  // namespace trunkline::tools
