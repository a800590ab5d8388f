// From tiles to the arrays of a plan.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/balance.hpp"
#include "plan/scratch.hpp"

namespace trunkline::plan {

/// Splits, orders and schedules the tiles, places the partials, and writes everything into the plan but query_tokens
/// and the facts it was made from.
class Emitter {
 public:
  void emit(const Forest& forest, const Rows& rows, const CostModel& cost, const SplitOptions& options,
            std::int32_t split_granule, const TileTotals& totals, std::vector<Group>& groups, std::span<Tile> tiles,
            Plan& plan);

 private:
  void share_out(const CostModel& cost, const SplitOptions& options, std::int32_t split_granule,
                 const TileTotals& totals, std::span<const Group> groups, std::span<Tile> tiles);
  void place_partials(std::vector<Group>& groups, std::span<Tile> tiles, Plan& plan);
  void emit_phase(const CostModel& cost, std::int32_t split_granule, std::span<const Group> groups,
                  std::span<const Tile> tiles, std::size_t phase, Plan& plan);
  void emit_lane(const CostModel& cost, std::int32_t split_granule, std::span<const Group> groups,
                 std::span<const Tile> tiles, const Share& share, int lane, Plan& plan);
  void emit_band(std::span<const Group> groups, std::span<const Tile> tiles, std::span<const std::int32_t> list,
                 std::int32_t split_granule, Plan& plan);
  void emit_merges(std::span<const Group> groups, std::span<const Tile> tiles, std::int32_t num_rows, Plan& plan);
  void append_merges(std::int32_t row_begin, std::int32_t row_end, std::int32_t num_sources, Plan& plan);
  void model(const Forest& forest, const Rows& rows, const CostModel& cost, const TileTotals& totals,
             std::span<const Group> groups, std::span<const Tile> tiles, Plan& plan);

  Balance balance_;
  std::size_t num_phases_ = 0;
  std::vector<Share> shares_;           // [phase][lane]; both lanes in lane 0 where they do not overlap
  std::vector<double> phase_tokens_;    // KV tokens that a phase reads from memory, per head
  std::vector<std::int32_t> partials_;  // per piece of a tile: its first partial row, or -1
  std::vector<std::int64_t> layer_next_;
  std::vector<std::int32_t> open_;     // groups that cover the current row, from the first position on
  std::vector<std::int32_t> sources_;  // of the current rows
};

}  // namespace trunkline::plan
