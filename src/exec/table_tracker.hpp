// Which entries of a copy of a forest's block tables are out of date, and the largest page the tables name.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/check.hpp"
#include "trunkline/forest.hpp"

namespace trunkline::exec {

/// Row r of the copy is row r of the forest's table; only when that table has more rows than the copy (a forest that
/// once held more requests) row r is the caller's request r, and every refresh is whole.
class TableTracker {
 public:
  TableTracker() = default;
  /// Of a copy with max_rows rows of `width` entries. Allocates all it will ever need.
  TableTracker(int max_rows, int width)
      : max_rows_(max_rows), width_(width), rows_(static_cast<std::size_t>(max_rows)) {}

  /// Calls write(row, first, source, count) for the entries [first, first + count) of a row of the copy that are to
  /// become source[0 .. count): what changed when the forest is the next version of the one seen last, nothing when it
  /// is the same, else everything. The forest must fit: at most max_rows requests, each of at most `width` pages. When
  /// `write` throws, the copy counts as unknown.
  template <class Write>
  void refresh(const Forest& forest, Write&& write);

  bool rows_are_requests() const noexcept { return rows_are_requests_; }
  /// The largest page of any request, compared as unsigned so that a negative one is larger than every legal one;
  /// nothing when no request has a page.
  std::optional<std::int32_t> largest_page() const noexcept { return largest_page_; }

 private:
  struct Row {
    std::int32_t num_pages = 0;      // entries that mean something, or `unknown`
    std::uint32_t largest_page = 0;  // among them
  };

  static constexpr std::int32_t unknown = -1;

  static std::uint32_t largest(const std::int32_t* begin, std::int64_t count) noexcept {
    std::uint32_t result = 0;
    for (std::int64_t i = 0; i < count; ++i) result = std::max(result, static_cast<std::uint32_t>(begin[i]));
    return result;
  }
  static const std::int32_t* row_of(const Forest::Table& table, int row) noexcept {
    return table.entries.data() + std::int64_t{row} * table.row_stride;
  }

  template <class Write>
  void apply(const Forest::Table& table, const Forest::TableChange& change, Write& write);

  int max_rows_ = 0;
  int width_ = 0;
  std::vector<Row> rows_;
  std::uint64_t uid_ = 0, version_ = 0;
  bool valid_ = false;  // uid_ and version_ name what the copy holds
  bool rows_are_requests_ = false;
  std::optional<std::int32_t> largest_page_;
};

template <class Write>
void TableTracker::refresh(const Forest& forest, Write&& write) {
  const Forest::Table table = forest.table();
  const auto seq_lens = forest.seq_lens();
  const auto table_rows = forest.table_rows();
  const int num_requests = forest.num_requests(), page_size = forest.page_size();
  const auto pages_of = [&](int request) { return ceil_div(seq_lens[request], page_size); };

  const bool compact = table.num_rows > max_rows_;
  const bool same_forest = valid_ && !compact && forest.uid() == uid_;
  valid_ = false;  // until all is written
  if (same_forest && forest.version() == version_ + 1) {
    for (const Forest::TableChange& change : forest.table_changes()) apply(table, change, write);
    // Beside those whose entries were replaced, a row may have passed from a request that left to one that joined, with
    // fewer pages or none.
    for (int request = 0; request < num_requests; ++request) {
      const int row = table_rows[request], num_pages = pages_of(request);
      if (rows_[row].num_pages == num_pages) continue;
      rows_[row] = {num_pages, largest(row_of(table, row), num_pages)};
    }
  } else if (!(same_forest && forest.version() == version_)) {
    std::fill(rows_.begin(), rows_.end(), Row{});
    for (int request = 0; request < num_requests; ++request) {
      const int from = table_rows[request], to = compact ? request : from, num_pages = pages_of(request);
      const std::int32_t* source = row_of(table, from);
      if (num_pages > 0) write(to, 0, source, num_pages);
      rows_[to] = {num_pages, largest(source, num_pages)};
    }
  }
  uid_ = forest.uid();
  version_ = forest.version();
  valid_ = !compact;
  rows_are_requests_ = compact;

  largest_page_.reset();
  std::uint32_t most = 0;
  for (int request = 0; request < num_requests; ++request) {
    const Row& row = rows_[compact ? request : table_rows[request]];
    if (row.num_pages == 0) continue;
    most = std::max(most, row.largest_page);
    largest_page_ = static_cast<std::int32_t>(most);
  }
}

template <class Write>
void TableTracker::apply(const Forest::Table& table, const Forest::TableChange& change, Write& write) {
  // A change may reach beyond what the row holds now, when its request left after it grew.
  const int end = std::min({change.end, width_, table.row_stride});
  if (change.row >= std::min(max_rows_, table.num_rows) || change.begin >= end) return;
  const std::int32_t* source = row_of(table, change.row);
  write(change.row, change.begin, source + change.begin, end - change.begin);
  Row& row = rows_[change.row];
  if (row.num_pages != unknown && change.begin >= row.num_pages) {  // growth: the cost is the change
    const std::uint32_t added = largest(source + change.begin, end - change.begin);
    row = {end, row.num_pages == 0 ? added : std::max(row.largest_page, added)};
  } else {
    row.num_pages = unknown;
  }
}

}  // namespace trunkline::exec
