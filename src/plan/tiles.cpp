#include "plan/tiles.hpp"

#include <limits>

namespace trunkline::plan {

void cut_tiles(std::span<const QueryToken> query_tokens, bool causal, std::int32_t group_size, const CostModel& cost,
               std::vector<Group>& groups, std::vector<Tile>& tiles) {
  tiles.clear();
  for (std::size_t g = 0; g < groups.size(); ++g) {
    Group& group = groups[g];
    group.tile_begin = static_cast<std::int32_t>(tiles.size());
    for (std::int32_t row = group.row_begin; row < group.row_end; row += group.tile_height) {
      Tile tile{};
      tile.group = static_cast<std::int32_t>(g);
      tile.row_begin = row;
      tile.num_rows = std::min(group.tile_height, group.row_end - row);
      tile.token_begin = group.token_begin;
      tile.token_end = group.token_end;
      tile.first_end = std::numeric_limits<std::int32_t>::max();
      if (causal) {
        std::int32_t last_end = group.token_begin;
        for (std::int32_t t = row / group_size; t <= (row + tile.num_rows - 1) / group_size; ++t) {
          tile.first_end = std::min(tile.first_end, query_tokens[t].visible_end);
          last_end = std::max(last_end, query_tokens[t].visible_end);
        }
        tile.token_end = std::min(tile.token_end, last_end);
      }
      tile.num_pieces = tile.num_tokens() > 0;
      tile.lane = cost.lane_of(tile.num_rows);
      tile.merged = group.parent >= 0 || row + tile.num_rows > group.own_row_end;
      tile.partial_seconds = tile.num_rows * cost.partial_row_seconds();
      tile.fixed_seconds = cost.item_seconds(tile.lane);
      if (tile.merged) {
        tile.fixed_seconds += tile.partial_seconds;
        tile.partial_seconds = 0;
      }
      tile.token_seconds = cost.token_seconds(tile.lane, tile.num_rows);
      tiles.push_back(tile);
    }
    group.tile_count = static_cast<std::int32_t>(tiles.size()) - group.tile_begin;
  }
}

double lower_bound(std::span<const Group> groups, std::span<const Tile> tiles, const CostModel& cost,
                   std::vector<std::array<double, num_lanes>>& phase_seconds) {
  phase_seconds.clear();
  double merged_rows = 0;
  for (const Tile& tile : tiles) {
    if (tile.num_pieces == 0) continue;
    const auto phase = static_cast<std::size_t>(groups[tile.group].phase);
    if (phase >= phase_seconds.size()) phase_seconds.resize(phase + 1, {0, 0});
    phase_seconds[phase][tile.lane] += tile.unit_seconds(1);
    if (tile.merged) merged_rows += tile.num_rows;
  }
  const double units_per_worker = static_cast<double>(cost.num_heads()) / cost.num_workers();
  double seconds = cost.launch_seconds() + merged_rows * cost.partial_row_seconds() * units_per_worker;
  for (const auto& [wide, narrow] : phase_seconds) {
    seconds += units_per_worker * (cost.lanes_overlap() ? cost.overlapped(wide, narrow) : wide + narrow);
  }
  return seconds;
}

}  // namespace trunkline::plan
