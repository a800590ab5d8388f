#include <algorithm>
#include <limits>

#include "base/check.hpp"
#include "trunkline/plan.hpp"

namespace trunkline {

PlanLimits PlanLimits::of(const Capacity& capacity, const AttentionConfig& config, const DeviceSpec& device) {
  capacity.validate();
  config.validate();
  device.validate();
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();  // what a plan's indices can name
  const std::int64_t query_tokens = capacity.max_query_tokens;
  const std::int64_t rows = query_tokens * config.group_size();
  const std::int64_t requests = std::min<std::int64_t>(capacity.max_requests, query_tokens);  // that have rows
  const std::int64_t tallest =
      std::max(device.wide.max_rows * (device.paired_flops > 0 ? 2 : 1), device.narrow.max_rows);
  const std::int64_t lowest = std::min(device.wide.max_rows > 0 ? device.wide.max_rows : tallest,
                                       device.narrow.max_rows > 0 ? device.narrow.max_rows : tallest);

  // `unshared` without splits: each request's rows in tiles, no partials, merges only for rows that see nothing.
  const std::int64_t unshared_items = requests + rows / lowest;
  const std::int64_t unshared_merges = requests + rows / max_merge_rows;
  // Partials of every row: `auto` hardly ever writes more than four; the others write one per level of the forest.
  const bool by_levels = config.strategy == Strategy::two_phase || config.strategy == Strategy::hydragen;
  const std::int64_t partials_per_row = by_levels ? 16 : 4;
  // Splits that give every worker four pieces of one list, twice for two lanes.
  const std::int64_t pieces = 8 * ceil_div(device.num_workers, config.num_kv_heads);

  PlanLimits limits;
  limits.max_query_tokens = query_tokens;
  limits.max_items = std::min(most, 2 * unshared_items + 2 * pieces);  // short pieces have few rows
  limits.max_segments = limits.max_items;
  limits.max_partial_rows = rows == 0 ? 0 : std::min(most, partials_per_row * rows + pieces * std::min(tallest, rows));
  limits.max_merges = std::min(most, 2 * unshared_merges);
  limits.max_merge_sources = limits.max_partial_rows;  // a source holds at least one partial row of its own
  limits.max_phases = config.strategy == Strategy::hydragen ? 16 : config.strategy == Strategy::two_phase ? 2 : 1;
  return limits;
}

}  // namespace trunkline
