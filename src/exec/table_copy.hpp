// The workspace's copy of a forest's block tables on the CPU, refreshed by what changed.
#pragma once

#include <algorithm>
#include <cstdint>

#include "exec/table_tracker.hpp"

namespace trunkline::exec {

/// Does not own its entries: they are a part of the workspace's block. See TableTracker for what a row is.
class TableCopy {
 public:
  TableCopy() = default;
  /// entries: int32 [max_rows, width]
  TableCopy(std::int32_t* entries, int max_rows, int width)
      : entries_(entries), width_(width), tracker_(max_rows, width) {}

  /// The forest's requests must fit: at most max_rows of them, each at most `width` pages.
  void refresh(const Forest& forest) noexcept {
    tracker_.refresh(forest, [this](int row, int first, const std::int32_t* source, int count) {
      std::copy_n(source, count, entries_ + std::int64_t{row} * width_ + first);
    });
  }

  const std::int32_t* entries() const noexcept { return entries_; }
  std::int64_t stride() const noexcept { return width_; }
  bool rows_are_requests() const noexcept { return tracker_.rows_are_requests(); }
  std::optional<std::int32_t> largest_page() const noexcept { return tracker_.largest_page(); }

 private:
  std::int32_t* entries_ = nullptr;
  int width_ = 0;
  TableTracker tracker_;
};

}  // namespace trunkline::exec
