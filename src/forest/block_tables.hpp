// Checks of what a caller hands in: block tables, lengths, pages. All throw invalid_argument.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "trunkline/forest.hpp"

namespace trunkline::forest {

[[noreturn]] void refuse(const std::string& argument, const std::string& expected, const std::string& got);

/// "seq_lens[3]", for errors
std::string element(const std::string& argument, std::size_t index);

/// "[3, 5)", for errors
std::string interval(std::int64_t begin, std::int64_t end);

/// A request's part of block tables that were checked.
std::span<const std::int32_t> row_of(const BlockTables& tables, std::size_t request) noexcept;

void check_tables(const BlockTables& tables);
void check_page_size(int page_size);
/// The sizes of the options' arrays, lengths that are negative, qo_lens beyond seq_lens, num_pages.
void check_batch(std::span<const std::int32_t> seq_lens, const BatchOptions& options);

/// The largest legal page for a pool of num_pages pages; 0: a pool of unknown size.
std::int32_t max_page_of(std::int64_t num_pages) noexcept;
/// Every page lies in [0, max_page]. `name(i)` is what page i is called in the error.
template <class Name>
void check_pages(std::span<const std::int32_t> pages, std::int32_t max_page, Name name);

namespace detail {

/// Whether all pages lie in [0, max_page]: a page p outside makes the top bit of p or of max_page - p one. Without a
/// branch per page, so that it is vectorised.
inline bool pages_lie_within(std::span<const std::int32_t> pages, std::int32_t max_page) noexcept {
  std::uint32_t outside = 0;
  for (const std::int32_t page : pages) {
    const auto value = static_cast<std::uint32_t>(page);
    outside |= value | (static_cast<std::uint32_t>(max_page) - value);
  }
  return outside >> 31 == 0;
}

[[noreturn]] void refuse_page(const std::string& argument, std::int32_t max_page, std::int32_t got);

}  // namespace detail

template <class Name>
void check_pages(std::span<const std::int32_t> pages, std::int32_t max_page, Name name) {
  if (detail::pages_lie_within(pages, max_page)) [[likely]] {
    return;
  }
  for (std::size_t i = 0; i < pages.size(); ++i) {
    if (pages[i] < 0 || pages[i] > max_page) {
      detail::refuse_page(name(i), max_page, pages[i]);
    }
  }
}

}  // namespace trunkline::forest
