#include "plan/tiles.hpp"

#include <limits>

namespace trunkline::plan {
namespace {

// The costs that depend on the rows of a tile and of its group alone, which are the same for most tiles of a batch.
class RowsCost {
 public:
  explicit RowsCost(const CostModel& cost) : cost_(cost) {}

  void price(Tile& tile, std::int32_t tiles) {
    if (tile.num_rows != rows_ || tiles != tiles_) {
      rows_ = tile.num_rows;
      tiles_ = tiles;
      lane_ = cost_.lane_of(rows_);
      item_seconds_ = cost_.item_seconds(lane_);
      token_seconds_ = cost_.token_seconds(lane_, rows_, tiles);
      partial_seconds_ = cost_.rows_each(lane_, rows_) * cost_.partial_row_seconds();
    }
    tile.lane = lane_;
    tile.fixed_seconds = item_seconds_ / cost_.heads_at_once(rows_, tile.num_tokens());
    if (tile.first_end < tile.token_end) tile.fixed_seconds += cost_.masked_seconds(lane_);
    tile.fixed_seconds += tile.merged ? partial_seconds_ : 0;
    tile.partial_seconds = tile.merged ? 0 : partial_seconds_;
    tile.run_seconds = cost_.run_tokens(rows_, tile.num_tokens()) * token_seconds_;
    tile.uncut_seconds = tile.fixed_seconds + tile.run_seconds;
  }

 private:
  const CostModel& cost_;
  std::int32_t rows_ = -1, tiles_ = 0;
  int lane_ = 0;
  double item_seconds_ = 0, token_seconds_ = 0, partial_seconds_ = 0;
};

}  // namespace

void pair(std::vector<Group>& groups, CostModel& cost) {
  cost.set_paired(false);
  if (!cost.can_pair()) return;
  // Those that a group leaves to the wide lane: a last one of few rows is narrow.
  const auto tiles = [&cost](std::int32_t rows, std::int32_t height) {
    return rows / height + (cost.is_narrow(rows % height) ? 0 : 1);
  };
  double alone = 0, paired = 0;  // tokens, of one worker's tiles
  for (const Group& group : groups) {
    const std::int32_t rows = group.row_end - group.row_begin;
    if (cost.is_narrow(std::min(rows, group.tile_height))) continue;
    const double tokens = group.token_end - group.token_begin;
    alone += tokens * tiles(rows, group.tile_height);
    paired += tokens * 2 * tiles(rows, cost.paired_rows());
  }
  cost.set_paired(paired < alone * cost.pair_gain());
  if (!cost.paired()) return;
  for (Group& group : groups) {
    if (!cost.is_narrow(group.tile_height)) group.tile_height = cost.paired_rows();
  }
}

void cut_tiles(std::span<const QueryToken> query_tokens, bool causal, std::int32_t group_size, const CostModel& cost,
               std::vector<Group>& groups, std::vector<Tile>& tiles, TileTotals& totals) {
  tiles.clear();
  totals.phase_seconds.clear();
  totals.kv_tokens = totals.read_tokens = totals.merged_rows = 0;
  RowsCost rows_cost(cost);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    Group& group = groups[g];
    group.tile_begin = static_cast<std::int32_t>(tiles.size());
    const auto phase = static_cast<std::size_t>(group.phase);
    group.tile_count = ceil_div(group.row_end - group.row_begin, group.tile_height);
    std::int32_t read_end = group.token_begin;
    for (std::int32_t row = group.row_begin; row < group.row_end; row += group.tile_height) {
      Tile& tile = tiles.emplace_back();
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
      tile.merged = group.parent >= 0 || row + tile.num_rows > group.own_row_end;
      tile.read_tokens = std::max(tile.token_end - read_end, 0);
      read_end += tile.read_tokens;
      rows_cost.price(tile, group.tile_count);
      if (tile.num_pieces == 0) continue;
      if (phase >= totals.phase_seconds.size()) totals.phase_seconds.resize(phase + 1, {0, 0});
      totals.phase_seconds[phase][tile.lane] += tile.uncut_seconds * cost.workers_of_item(tile.lane);
      totals.kv_tokens += tile.num_tokens();
      totals.read_tokens += tile.read_tokens;
      if (tile.merged) totals.merged_rows += tile.num_rows;
    }
  }
}

double lower_bound(const TileTotals& totals, const CostModel& cost) {
  const double units_per_worker = static_cast<double>(cost.num_heads()) / cost.num_workers();
  double items = 0;
  for (const auto& [wide, narrow] : totals.phase_seconds) items += units_per_worker * cost.together(wide, narrow);
  return cost.launch_seconds() + std::max(items, cost.read_seconds(totals.read_tokens)) +
         totals.merged_rows * cost.partial_row_seconds() * units_per_worker;
}

}  // namespace trunkline::plan
