// The fastest plain reader of memory: what a kernel bound by bytes is held against.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "common/team.hpp"
#include "trunkline/forest.hpp"
#include "trunkline/kv_view.hpp"

namespace trunkline::tools {

struct Extent {
  const std::byte* data;
  std::size_t bytes;
};

/// The memory of the tokens of a forest's nodes, in address order, neighbours joined.
std::vector<Extent> distinct_extents(const Forest& forest, const KvView& kv);
/// Sorts by address and joins what touches or overlaps.
std::vector<Extent> joined(std::vector<Extent> extents);
std::size_t total_bytes(std::span<const Extent> extents);

/// Reads every byte once, an equal share of bytes per thread, with the widest vectors the machine has.
void read_all(Team& team, std::span<const Extent> extents);

}  // namespace trunkline::tools
