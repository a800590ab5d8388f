// Nested groups as block tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "trunkline/forest.hpp"

namespace trunkline::forest {

/// The tokens of every request. Throws invalid_argument unless the levels are what `Level` says.
std::vector<std::int32_t> check_levels(std::span<const Level> levels, int page_size, std::int32_t max_page);

/// The block tables of checked levels: each request's pages, one request after the other.
class LevelRows {
 public:
  explicit LevelRows(std::span<const Level> levels) : levels_(levels), groups_(levels.size(), 0) {}
  /// The next request's pages, from level 0 down; valid until the next call.
  std::span<const std::int32_t> next();

 private:
  std::span<const Level> levels_;
  std::vector<std::size_t> groups_;  // per level: the first group that does not end before the request
  std::vector<std::int32_t> pages_;
  std::int32_t request_ = 0;
};

}  // namespace trunkline::forest
