#include "forest/block_tables.hpp"

#include <algorithm>
#include <limits>

#include "base/check.hpp"

namespace trunkline {

using forest::check_tables;
using forest::refuse;

BlockTables BlockTables::dense(std::span<const std::int32_t> entries, int num_requests, int max_pages, int row_stride) {
  BlockTables tables;
  tables.entries = entries;
  tables.num_requests = num_requests;
  tables.max_pages = max_pages;
  tables.row_stride = row_stride == 0 ? max_pages : row_stride;
  check_tables(tables);
  return tables;
}

BlockTables BlockTables::csr(std::span<const std::int32_t> indptr, std::span<const std::int32_t> indices) {
  if (indptr.empty()) {
    refuse("tables.indptr", "num_requests + 1 entries", "none");
  }
  BlockTables tables;
  tables.entries = indices;
  tables.indptr = indptr;
  tables.num_requests = static_cast<int>(indptr.size()) - 1;
  check_tables(tables);
  for (std::size_t request = 0; request + 1 < indptr.size(); ++request) {
    tables.max_pages = std::max(tables.max_pages, indptr[request + 1] - indptr[request]);
  }
  return tables;
}

namespace forest {

void refuse(const std::string& argument, const std::string& expected, const std::string& got) {
  throw Error(ErrorCode::invalid_argument, argument, expected, got);
}

std::string element(const std::string& argument, std::size_t index) {
  return argument + "[" + std::to_string(index) + "]";
}

std::string interval(std::int64_t begin, std::int64_t end) {
  std::string text("[");
  text.append(std::to_string(begin)).append(", ").append(std::to_string(end)).append(")");
  return text;
}

std::span<const std::int32_t> row_of(const BlockTables& tables, std::size_t request) noexcept {
  if (!tables.indptr.empty()) {
    const std::int32_t begin = tables.indptr[request];
    return tables.entries.subspan(begin, tables.indptr[request + 1] - begin);
  }
  const std::size_t stride = tables.row_stride == 0 ? tables.max_pages : tables.row_stride;
  return tables.entries.subspan(request * stride, tables.max_pages);
}

void check_tables(const BlockTables& tables) {
  require(tables.num_requests >= 0, "tables.num_requests", ">= 0", tables.num_requests);
  const auto num_requests = static_cast<std::size_t>(tables.num_requests);
  if (tables.indptr.empty()) {
    require(tables.max_pages >= 0, "tables.max_pages", ">= 0", tables.max_pages);
    require(tables.row_stride == 0 || tables.row_stride >= tables.max_pages, "tables.row_stride",
            "at least max_pages " + std::to_string(tables.max_pages), tables.row_stride);
    const std::size_t stride = tables.row_stride == 0 ? tables.max_pages : tables.row_stride;
    const std::size_t needed = num_requests == 0 ? 0 : (num_requests - 1) * stride + tables.max_pages;
    require(tables.entries.size() >= needed, "tables.entries", "at least " + std::to_string(needed) + " entries",
            tables.entries.size());
    return;
  }
  require(tables.indptr.size() == num_requests + 1, "tables.indptr", std::to_string(num_requests + 1) + " entries",
          tables.indptr.size());
  require(tables.indptr[0] >= 0, "tables.indptr[0]", ">= 0", tables.indptr[0]);
  for (std::size_t i = 1; i < tables.indptr.size(); ++i) {
    if (tables.indptr[i] < tables.indptr[i - 1]) {
      refuse(element("tables.indptr", i), "at least the entry before, " + std::to_string(tables.indptr[i - 1]),
             std::to_string(tables.indptr[i]));
    }
  }
  const auto last = static_cast<std::size_t>(tables.indptr.back());
  require(last <= tables.entries.size(), "tables.indptr",
          "entries up to the number of indices, " + std::to_string(tables.entries.size()), last);
}

void check_page_size(int page_size) {
  require(page_size >= 1 && page_size <= max_page_size, "page_size", "1 to " + std::to_string(max_page_size),
          page_size);
}

void check_batch(std::span<const std::int32_t> seq_lens, const BatchOptions& options) {
  const auto agrees = [&](std::size_t size) { return size == 0 || size == seq_lens.size(); };
  const std::string one_each = std::to_string(seq_lens.size()) + " entries or none";
  require(agrees(options.qo_lens.size()), "qo_lens", one_each, options.qo_lens.size());
  require(agrees(options.request_ids.size()), "request_ids", one_each, options.request_ids.size());
  require(options.num_pages >= 0, "num_pages", ">= 0", options.num_pages);
  for (std::size_t i = 0; i < seq_lens.size(); ++i) {
    if (seq_lens[i] < 0) {
      refuse(element("seq_lens", i), ">= 0", std::to_string(seq_lens[i]));
    }
    if (options.qo_lens.empty()) {
      continue;
    }
    if (options.qo_lens[i] < 0) {
      refuse(element("qo_lens", i), ">= 0", std::to_string(options.qo_lens[i]));
    }
    if (seq_lens[i] > 0 && options.qo_lens[i] > seq_lens[i]) {
      refuse(element("qo_lens", i), "at most seq_len " + std::to_string(seq_lens[i]),
             std::to_string(options.qo_lens[i]));
    }
  }
}

std::int32_t max_page_of(std::int64_t num_pages) noexcept {
  constexpr std::int64_t largest = std::numeric_limits<std::int32_t>::max();
  return static_cast<std::int32_t>(num_pages == 0 ? largest : std::min(num_pages - 1, largest));
}

void detail::refuse_page(const std::string& argument, std::int32_t max_page, std::int32_t got) {
  const bool bounded = max_page < std::numeric_limits<std::int32_t>::max();
  refuse(argument, bounded ? "a page in " + interval(0, std::int64_t{max_page} + 1) : "a page >= 0",
         std::to_string(got));
}

}  // namespace forest
}  // namespace trunkline
