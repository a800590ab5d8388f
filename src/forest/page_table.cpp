#include "forest/page_table.hpp"

#include <functional>
#include <limits>
#include <utility>

#include "base/check.hpp"

namespace trunkline::forest {
namespace {

constexpr std::int64_t line = 16;  // entries of a 64-byte cache line

/// An odd number of cache lines, so that the same entry of many rows does not fall into one set of the cache. No
/// request has more pages than an int32 counts.
std::int64_t stride_for(std::int64_t width) {
  constexpr std::int64_t widest = std::numeric_limits<std::int32_t>::max();
  const std::int64_t rounded = round_up(std::max(width, std::int64_t{1}), line);
  return std::min(rounded / line % 2 == 0 ? rounded + line : rounded, widest);
}

}  // namespace

// An eighth of slack is at least a hundred decode steps of page size 16 before rows have to move.
PageTable::PageTable(int num_rows, std::int64_t width) { relayout(num_rows, stride_for(width + width / 8 + 8)); }

PageTable::PageTable(const PageTable& other) : used_(other.used_), free_(other.free_) {
  row_capacity_ = other.num_rows();
  stride_ = other.stride_;
  entries_ = std::make_unique_for_overwrite<std::int32_t[]>(static_cast<std::size_t>(row_capacity_ * stride_));
  for (std::int32_t row = 0; row < num_rows(); ++row) {
    if (used_[row] != free_row) {
      std::copy_n(other.row(row), used_[row], entry(row, 0));
    }
  }
}

PageTable& PageTable::operator=(const PageTable& other) { return *this = PageTable(other); }

std::int32_t PageTable::acquire() {
  if (!free_.empty()) {
    std::pop_heap(free_.begin(), free_.end(), std::greater<>());
    const std::int32_t row = free_.back();
    free_.pop_back();
    used_[row] = 0;
    return row;
  }
  const auto row = static_cast<std::int32_t>(used_.size());
  if (row == row_capacity_) {
    relayout(row_capacity_ + row_capacity_ / 2 + 8, stride_ > 0 ? stride_ : stride_for(1));
  }
  used_.push_back(0);
  return row;
}

void PageTable::release(std::span<const std::int32_t> rows) {
  for (const std::int32_t row : rows) {
    used_[row] = free_row;
  }
  free_.insert(free_.end(), rows.begin(), rows.end());
  while (!used_.empty() && used_.back() == free_row) {
    used_.pop_back();
  }
  std::erase_if(free_, [this](std::int32_t row) { return row >= num_rows(); });
  std::make_heap(free_.begin(), free_.end(), std::greater<>());
}

void PageTable::widen(std::int64_t width) {
  relayout(row_capacity_, stride_for(std::max(width, stride_ + stride_ / 2)));
}

void PageTable::relayout(std::int64_t row_capacity, std::int64_t stride) {
  auto entries = std::make_unique_for_overwrite<std::int32_t[]>(static_cast<std::size_t>(row_capacity * stride));
  for (std::int32_t row = 0; row < num_rows(); ++row) {
    if (used_[row] != free_row) {
      std::copy_n(entry(row, 0), used_[row], entries.get() + std::int64_t{row} * stride);
    }
  }
  entries_ = std::move(entries);
  row_capacity_ = row_capacity;
  stride_ = stride;
}

}  // namespace trunkline::forest
