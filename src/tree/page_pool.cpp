#include "trunkline/page_pool.hpp"

#include <algorithm>
#include <string>

#include "base/check.hpp"

namespace trunkline {

PagePool::PagePool(std::int32_t num_pages, int page_size) : page_size_(page_size) {
  require(num_pages >= 1, "num_pages", "at least 1", num_pages);
  require(page_size >= 1 && page_size <= max_page_size, "page_size", "1 to 1024", page_size);
  ref_counts_.assign(static_cast<std::size_t>(num_pages), 0);
  free_.resize(static_cast<std::size_t>(num_pages));
  for (std::int32_t page = 0; page < num_pages; ++page) {
    free_[static_cast<std::size_t>(num_pages - 1 - page)] = page;
  }
}

std::int64_t PagePool::memory_bytes() const noexcept {
  return static_cast<std::int64_t>((ref_counts_.capacity() + free_.capacity()) * sizeof(std::int32_t));
}

void PagePool::refuse(std::int32_t page) const {
  if (!in_pool(page)) {
    throw Error(ErrorCode::invalid_argument, "page", "0 to " + std::to_string(num_pages() - 1), std::to_string(page));
  }
  throw Error(ErrorCode::invalid_argument, "page", "a page in use", "free page " + std::to_string(page));
}

void PagePool::allocate(std::span<std::int32_t> out) {
  if (out.size() > free_.size()) {
    throw Error::out_of_pages("out", static_cast<long long>(out.size()), num_free());
  }
  for (std::int32_t& page : out) {
    page = free_.back();
    free_.pop_back();
    ref_counts_[static_cast<std::size_t>(page)] = 1;
  }
  peak_used_ = std::max(peak_used_, num_used());
}

std::int32_t PagePool::allocate() {
  std::int32_t page;
  allocate({&page, 1});
  return page;
}

void PagePool::retain(std::span<const std::int32_t> pages) {
  for (const std::int32_t page : pages) {
    if (!in_use(page)) [[unlikely]] {
      refuse(page);
    }
  }
  for (const std::int32_t page : pages) {
    ++ref_counts_[static_cast<std::size_t>(page)];
  }
}

std::int32_t PagePool::release(std::span<const std::int32_t> pages) {
  const std::size_t free_before = free_.size();
  // Last page first, so that the first one ends on top of the stack. A failure undoes the steps in reverse.
  for (std::size_t i = pages.size(); i-- > 0;) {
    const std::int32_t page = pages[i];
    if (in_use(page)) [[likely]] {
      if (--ref_counts_[static_cast<std::size_t>(page)] == 0) {
        free_.push_back(page);
      }
      continue;
    }
    for (std::size_t j = i + 1; j < pages.size(); ++j) {
      ++ref_counts_[static_cast<std::size_t>(pages[j])];
    }
    free_.resize(free_before);
    refuse(page);
  }
  return static_cast<std::int32_t>(free_.size() - free_before);
}

std::int32_t PagePool::ref_count(std::int32_t page) const {
  if (!in_pool(page)) {
    refuse(page);
  }
  return ref_counts_[static_cast<std::size_t>(page)];
}

}  // namespace trunkline
