// Groups cut into row tiles, with what each costs.
#pragma once

#include <span>
#include <vector>

#include "plan/scratch.hpp"

namespace trunkline::plan {

/// Decides whether workers take wide items in pairs: then groups of many rows get tiles of twice the height.
void pair(std::vector<Group>& groups, CostModel& cost);

/// Cuts every group into tiles of its tile_height. A tile's tokens end where the last of its rows stops seeing them.
void cut_tiles(std::span<const QueryToken> query_tokens, bool causal, std::int32_t group_size, const CostModel& cost,
               std::vector<Group>& groups, std::vector<Tile>& tiles, TileTotals& totals);

/// No plan of tiles with these totals is modelled faster, however it is split and scheduled.
double lower_bound(const TileTotals& totals, const CostModel& cost);

}  // namespace trunkline::plan
