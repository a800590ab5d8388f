// The forest's own block tables: rows of page indices that stay in place while their request does.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace trunkline::forest {

/// Row-major int32 [row_capacity, stride]. Memory beyond a row's used entries is never written to, so that a row costs
/// what it holds; the width grows geometrically.
class PageTable {
 public:
  PageTable() = default;
  /// Empty, with room for `num_rows` rows of `width` entries and a little growth.
  PageTable(int num_rows, std::int64_t width);
  PageTable(const PageTable& other);
  PageTable(PageTable&&) noexcept = default;
  PageTable& operator=(const PageTable& other);
  PageTable& operator=(PageTable&&) noexcept = default;

  /// An empty row: the lowest free one, else a new one at the end.
  std::int32_t acquire();
  /// Takes rows back. Free rows at the end cease to be rows.
  void release(std::span<const std::int32_t> rows);

  void append(std::int32_t row, std::span<const std::int32_t> pages) {
    const std::int64_t size = used_[row];
    if (size + static_cast<std::int64_t>(pages.size()) > stride_) {
      widen(size + static_cast<std::int64_t>(pages.size()));
    }
    std::copy(pages.begin(), pages.end(), entry(row, size));
    used_[row] += static_cast<std::int32_t>(pages.size());
  }
  void replace(std::int32_t row, std::int32_t first, std::span<const std::int32_t> pages) {
    std::copy(pages.begin(), pages.end(), entry(row, first));
  }

  const std::int32_t* row(std::int32_t index) const noexcept { return entries_.get() + std::int64_t{index} * stride_; }
  /// Entries in use.
  std::span<const std::int32_t> pages(std::int32_t index) const noexcept {
    return {row(index), static_cast<std::size_t>(used_[index])};
  }
  int num_rows() const noexcept { return static_cast<int>(used_.size()); }
  int stride() const noexcept { return static_cast<int>(stride_); }
  std::span<const std::int32_t> entries() const noexcept {
    return {entries_.get(), used_.size() * static_cast<std::size_t>(stride_)};
  }

 private:
  static constexpr std::int32_t free_row = -1;

  std::int32_t* entry(std::int32_t row, std::int64_t index) noexcept {
    return entries_.get() + std::int64_t{row} * stride_ + index;
  }
  void widen(std::int64_t width);
  void relayout(std::int64_t row_capacity, std::int64_t stride);

  std::unique_ptr<std::int32_t[]> entries_;
  std::int64_t row_capacity_ = 0;
  std::int64_t stride_ = 0;
  std::vector<std::int32_t> used_;  // per row: entries in use, or free_row
  std::vector<std::int32_t> free_;  // min-heap of the free rows
};

}  // namespace trunkline::forest
