// The workspace's copy of a forest's block tables, refreshed by what changed, and the largest page it names.
#pragma once

#include <cstdint>
#include <vector>

#include "trunkline/forest.hpp"

namespace trunkline::exec {

/// Does not own its entries: they are a part of the workspace's block. Row r of the copy is row r of the forest's
/// table; only when that table has more rows than the copy (a forest that once held more requests) row r is the
/// caller's request r, and every refresh is whole.
class TableCopy {
 public:
  TableCopy() = default;
  /// entries: int32 [max_rows, width]. Allocates all it will ever need.
  TableCopy(std::int32_t* entries, int max_rows, int width);

  /// The forest's requests must fit: at most max_rows of them, each at most `width` pages. Copies the changes when the
  /// forest is the next version of the one seen last, nothing when it is the same, else the whole table.
  void refresh(const Forest& forest) noexcept;

  const std::int32_t* entries() const noexcept { return entries_; }
  std::int64_t stride() const noexcept { return width_; }
  bool rows_are_requests() const noexcept { return rows_are_requests_; }

  /// The largest page of any request, compared as unsigned so that a negative one is larger than every legal one.
  /// Meaningless unless `any_page()`.
  std::int32_t largest_page() const noexcept { return static_cast<std::int32_t>(largest_page_); }
  bool any_page() const noexcept { return any_page_; }

 private:
  void copy_row(const Forest::Table& table, int from_row, int to_row, int num_pages) noexcept;
  void apply(const Forest::Table& table, const Forest::TableChange& change) noexcept;
  void rescan_row(int row) noexcept;

  std::int32_t* entries_ = nullptr;
  int max_rows_ = 0;
  int width_ = 0;

  struct Row {
    std::int32_t num_pages = 0;      // entries that mean something
    std::uint32_t largest_page = 0;  // among them
  };
  std::vector<Row> rows_;

  std::uint64_t uid_ = 0, version_ = 0;
  bool valid_ = false;  // uid_ and version_ name what the copy holds
  bool rows_are_requests_ = false;
  bool any_page_ = false;
  std::uint32_t largest_page_ = 0;
};

}  // namespace trunkline::exec
