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

SyntheticBatch::SyntheticBatch(const GridCase& shape, PageOrder order, std::uint64_t seed)
    : page_size(shape.page_size) {
  const int num_requests = shape.num_requests();
  // A page belongs to the node that holds its last token: exactly the requests below that node have all of it in
  // common.
  std::vector<std::vector<std::int32_t>> first_page;  // per level and node; -1: none handed out yet
  for (const auto& level : shape.levels) first_page.emplace_back(static_cast<std::size_t>(level.num_nodes), -1);
  indptr.push_back(0);
  for (int request = 0; request < num_requests; ++request) {
    int end = 0, num_pages_so_far = 0;
    for (std::size_t level = 0; level < shape.levels.size(); ++level) {
      const bool last = level + 1 == shape.levels.size();
      // Children are spread evenly over their parents, so an ancestor's index is the request's, scaled down.
      std::int64_t node = request;
      for (std::size_t above = shape.levels.size() - 1; above > level; --above) {
        node = node * shape.levels[above - 1].num_nodes / shape.levels[above].num_nodes;
      }
      end += shape.levels[level].tokens_per_node;
      // Inner nodes own the pages they fill; what is left goes to the next node, or is the request's last page.
      int owned = end / page_size - num_pages_so_far;
      const bool no_tokens_follow =
          std::all_of(shape.levels.begin() + static_cast<std::ptrdiff_t>(level) + 1, shape.levels.end(),
                      [](const GridLevel& below) { return below.tokens_per_node == 0; });
      if ((last || no_tokens_follow) && end % page_size != 0) ++owned;
      owned = std::max(0, std::min(owned, (end + page_size - 1) / page_size - num_pages_so_far));
      std::int32_t& first = first_page[level][static_cast<std::size_t>(node)];
      if (first < 0) {
        first = static_cast<std::int32_t>(num_pages);
        num_pages += owned;
      }
      for (int page = 0; page < owned; ++page) indices.push_back(first + page);
      num_pages_so_far += owned;
    }
    seq_lens.push_back(end);
    qo_lens.push_back(shape.qo_len);
    indptr.push_back(static_cast<std::int32_t>(indices.size()));
    max_pages = std::max(max_pages, num_pages_so_far);
  }
  if (order == PageOrder::sequential) return;
  std::vector<std::int32_t> shuffled(static_cast<std::size_t>(num_pages));
  std::iota(shuffled.begin(), shuffled.end(), 0);
  std::shuffle(shuffled.begin(), shuffled.end(), Random(seed));
  for (auto& page : indices) page = shuffled[static_cast<std::size_t>(page)];
}

Forest SyntheticBatch::forest() const {
  BatchOptions options;
  options.qo_lens = qo_lens;
  options.num_pages = num_pages;
  return Forest::from_block_tables(tables(), seq_lens, page_size, options);
}

}  // namespace trunkline::tools
