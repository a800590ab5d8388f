#include "sim/compact_batch.hpp"

#include <algorithm>
#include <span>

namespace trunkline::sim {
namespace {

std::span<const std::int32_t> pages_of(const Forest& forest, int request) {
  const auto r = static_cast<std::size_t>(request);
  const Forest::Table table = forest.table();
  const std::int64_t row = forest.table_rows()[r];
  const std::int64_t count = (std::int64_t{forest.seq_lens()[r]} + forest.page_size() - 1) / forest.page_size();
  return table.entries.subspan(static_cast<std::size_t>(row * table.row_stride), static_cast<std::size_t>(count));
}

}  // namespace

CompactBatch::CompactBatch(const Forest& from, std::int64_t max_pages_together) {
  constexpr std::int32_t unused = -1;
  std::vector<std::int32_t> number;  // by page of the pool; first marks, then the new numbers
  indptr.push_back(0);
  for (int request = 0; request < from.num_requests(); ++request) {
    const auto pages = pages_of(from, request);
    std::int64_t added = 0;
    for (const std::int32_t page : pages) {
      if (static_cast<std::size_t>(page) >= number.size()) number.resize(static_cast<std::size_t>(page) + 1, unused);
      added += number[static_cast<std::size_t>(page)] == unused;
    }
    if (num_pages + added > max_pages_together) {
      num_left_out = from.num_requests() - request;
      break;
    }
    num_pages += added;
    for (const std::int32_t page : pages) number[static_cast<std::size_t>(page)] = 0;
    indices.insert(indices.end(), pages.begin(), pages.end());
    indptr.push_back(static_cast<std::int32_t>(indices.size()));
    seq_lens.push_back(from.seq_lens()[static_cast<std::size_t>(request)]);
    qo_lens.push_back(from.qo_lens()[static_cast<std::size_t>(request)]);
    max_pages = std::max(max_pages, static_cast<int>(pages.size()));
  }
  std::int32_t next = 0;
  for (std::int32_t& page : number) {
    if (page != unused) page = next++;
  }
  for (std::int32_t& page : indices) page = number[static_cast<std::size_t>(page)];
  BatchOptions options;
  options.qo_lens = qo_lens;
  options.num_pages = num_pages;
  forest = Forest::from_block_tables(tables(), seq_lens, from.page_size(), options);
}

}  // namespace trunkline::sim
