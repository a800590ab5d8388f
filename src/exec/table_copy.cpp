#include "exec/table_copy.hpp"

#include <algorithm>

#include "base/check.hpp"

namespace trunkline::exec {
namespace {

std::uint32_t largest(const std::int32_t* begin, const std::int32_t* end) noexcept {
  std::uint32_t result = 0;
  for (; begin != end; ++begin) result = std::max(result, static_cast<std::uint32_t>(*begin));
  return result;
}

}  // namespace

TableCopy::TableCopy(std::int32_t* entries, int max_rows, int width)
    : entries_(entries), max_rows_(max_rows), width_(width), rows_(static_cast<std::size_t>(max_rows)) {}

void TableCopy::refresh(const Forest& forest) noexcept {
  const Forest::Table table = forest.table();
  const auto seq_lens = forest.seq_lens();
  const auto table_rows = forest.table_rows();
  const int num_requests = forest.num_requests();
  const auto pages_of = [&](int request) { return ceil_div(seq_lens[request], forest.page_size()); };

  const bool compact = table.num_rows > max_rows_;
  const bool same_forest = valid_ && !compact && forest.uid() == uid_;
  if (same_forest && forest.version() == version_ + 1) {
    for (const Forest::TableChange& change : forest.table_changes()) apply(table, change);
    // A row may have passed from a request that left to one that joined, with fewer pages or none.
    for (int request = 0; request < num_requests; ++request) {
      const int row = table_rows[request], num_pages = pages_of(request);
      if (rows_[row].num_pages == num_pages) continue;
      rows_[row].num_pages = num_pages;
      rescan_row(row);
    }
  } else if (!(same_forest && forest.version() == version_)) {
    for (int request = 0; request < num_requests; ++request) {
      const int row = table_rows[request];
      copy_row(table, row, compact ? request : row, pages_of(request));
    }
  }
  uid_ = forest.uid();
  version_ = forest.version();
  valid_ = !compact;
  rows_are_requests_ = compact;

  any_page_ = false;
  largest_page_ = 0;
  for (int request = 0; request < num_requests; ++request) {
    const Row& row = rows_[compact ? request : table_rows[request]];
    if (row.num_pages == 0) continue;
    any_page_ = true;
    largest_page_ = std::max(largest_page_, row.largest_page);
  }
}

void TableCopy::copy_row(const Forest::Table& table, int from_row, int to_row, int num_pages) noexcept {
  const std::int32_t* source = table.entries.data() + std::int64_t{from_row} * table.row_stride;
  std::copy_n(source, num_pages, entries_ + std::int64_t{to_row} * width_);
  rows_[to_row] = {num_pages, largest(source, source + num_pages)};
}

void TableCopy::apply(const Forest::Table& table, const Forest::TableChange& change) noexcept {
  // A change may reach beyond what the row holds now, when its request left after it grew.
  const int end = std::min(change.end, width_);
  if (change.row >= max_rows_ || change.begin >= end) return;
  const std::int32_t* source = table.entries.data() + std::int64_t{change.row} * table.row_stride;
  std::copy(source + change.begin, source + end, entries_ + std::int64_t{change.row} * width_ + change.begin);
  Row& row = rows_[change.row];
  if (change.begin >= row.num_pages) {  // growth: the cost is the change
    const std::uint32_t added = largest(source + change.begin, source + end);
    row.largest_page = row.num_pages == 0 ? added : std::max(row.largest_page, added);
    row.num_pages = end;
  } else {
    row.num_pages = std::max(row.num_pages, end);
    rescan_row(change.row);
  }
}

void TableCopy::rescan_row(int row) noexcept {
  const std::int32_t* entries = entries_ + std::int64_t{row} * width_;
  rows_[row].largest_page = largest(entries, entries + rows_[row].num_pages);
}

}  // namespace trunkline::exec
