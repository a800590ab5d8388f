#include "plan/emit.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include "trunkline/error.hpp"

namespace trunkline::plan {
namespace {

// Where a piece of a tile ends: even pieces, moved to the nearest multiple of the granule.
std::int32_t piece_end(const Tile& tile, std::int32_t piece, std::int32_t granule) {
  if (piece + 1 == tile.num_pieces) return tile.token_end;
  const std::int64_t offset = std::int64_t{tile.num_tokens()} * (piece + 1) / tile.num_pieces;
  const auto unit = static_cast<std::uint32_t>(granule);
  const auto nearest = static_cast<std::uint32_t>(tile.token_begin + offset) + unit / 2;
  return static_cast<std::int32_t>(nearest / unit * unit);
}

bool alike(const Tile& a, const Tile& b) {
  return a.group == b.group && a.num_rows == b.num_rows && a.num_tokens() == b.num_tokens() &&
         a.num_pieces == b.num_pieces;
}

}  // namespace

void Emitter::emit(const Forest& forest, const Rows& rows, const CostModel& cost, const SplitOptions& options,
                   std::int32_t split_granule, const TileTotals& totals, std::vector<Group>& groups,
                   std::span<Tile> tiles, Plan& plan) {
  plan.items.clear();
  plan.segments.clear();
  plan.merges.clear();
  plan.merge_sources.clear();
  plan.phases.clear();
  plan.schedule.clear();
  plan.model = {};

  share_out(cost, options, split_granule, totals, groups, tiles);
  place_partials(groups, tiles, plan);
  for (std::size_t phase = 0; phase < num_phases_; ++phase) {
    emit_phase(cost, split_granule, groups, tiles, phase, plan);
  }
  emit_merges(groups, tiles, rows.count(), plan);
  model(forest, rows, cost, totals, groups, tiles, plan);
}

void Emitter::share_out(const CostModel& cost, const SplitOptions& options, std::int32_t split_granule,
                        const TileTotals& totals, std::span<const Group> groups, std::span<Tile> tiles) {
  num_phases_ = totals.phase_seconds.size();
  phase_tokens_.assign(num_phases_, 0);
  if (shares_.size() < num_phases_ * num_lanes) shares_.resize(num_phases_ * num_lanes);
  for (Share& share : shares_) share.members.clear();
  for (std::size_t t = 0; t < tiles.size(); ++t) {
    const Tile& tile = tiles[t];
    if (tile.num_pieces == 0) continue;
    const auto phase = static_cast<std::size_t>(groups[tile.group].phase);
    phase_tokens_[phase] += tile.read_tokens;
    const int list = cost.lanes_overlap() ? tile.lane : 0;
    shares_[phase * num_lanes + list].members.push_back(static_cast<std::int32_t>(t));
  }
  for (std::size_t phase = 0; phase < num_phases_; ++phase) {
    // The longer lane first; the shorter one then knows what it may hide under.
    const auto& [wide, narrow] = totals.phase_seconds[phase];
    Share* longer = &shares_[phase * num_lanes];
    Share* shorter = longer + 1;
    double other_seconds = 0;
    if (cost.lanes_overlap()) {
      if (wide < narrow) std::swap(longer, shorter);
      other_seconds = std::min(wide, narrow) * cost.num_heads() / cost.num_workers();
    }
    for (Share* share : {longer, shorter}) {
      share->busiest = 0;
      if (share->members.empty()) {
        share->tiles.clear();
        share->sorted.clear();
        continue;
      }
      const int lane = share == &shares_[phase * num_lanes + wide_lane] ? wide_lane : narrow_lane;
      const int num_workers = cost.num_workers() / cost.workers_of_item(lane);
      balance_.make(cost, {options, split_granule, totals.merged_rows > 0, other_seconds, num_workers}, tiles, *share);
      other_seconds = share->busiest;
    }
  }
}

// Partials lie in layers: layer i holds the i-th source of every row that has one, in row order. So the sources of
// neighbouring rows usually lie side by side, and one merge serves rows of several items.
void Emitter::place_partials(std::vector<Group>& groups, std::span<Tile> tiles, Plan& plan) {
  std::int32_t num_pieces = 0;
  layer_next_.clear();
  for (Group& group : groups) {
    group.layer = group.parent < 0 ? 0 : groups[group.parent].layer + groups[group.parent].num_pieces;
    group.num_pieces = 0;
    for (std::int32_t t = group.tile_begin; t < group.tile_begin + group.tile_count; ++t) {
      Tile& tile = tiles[t];
      tile.first_piece = num_pieces;
      num_pieces += tile.num_pieces;
      group.num_pieces = std::max(group.num_pieces, tile.num_pieces);
      if (tile.direct()) continue;
      const std::int32_t layers = group.layer + tile.num_pieces;
      if (std::ssize(layer_next_) < layers) layer_next_.resize(static_cast<std::size_t>(layers), 0);
      for (std::int32_t p = 0; p < tile.num_pieces; ++p) layer_next_[group.layer + p] += tile.num_rows;
    }
  }
  plan.num_partial_rows = 0;
  for (std::int64_t& next : layer_next_) plan.num_partial_rows += std::exchange(next, plan.num_partial_rows);

  partials_.resize(static_cast<std::size_t>(num_pieces));
  for (const Tile& tile : tiles) {
    for (std::int32_t p = 0; p < tile.num_pieces; ++p) {
      std::int32_t& partial = partials_[tile.first_piece + p];
      if (tile.direct()) {
        partial = -1;
        continue;
      }
      std::int64_t& next = layer_next_[groups[tile.group].layer + p];
      partial = static_cast<std::int32_t>(next);
      next += tile.num_rows;
    }
  }
}

void Emitter::emit_phase(const CostModel& cost, std::int32_t split_granule, std::span<const Group> groups,
                         std::span<const Tile> tiles, std::size_t phase, Plan& plan) {
  if (shares_[phase * num_lanes].tiles.empty() && shares_[phase * num_lanes + 1].tiles.empty()) return;
  Phase entry{};
  entry.item_begin = static_cast<std::int32_t>(plan.items.size());
  for (int lane = 0; lane < num_lanes; ++lane) {
    const Share& share = shares_[phase * num_lanes + (cost.lanes_overlap() ? lane : 0)];
    emit_lane(cost, split_granule, groups, tiles, share, lane, plan);
    if (lane == wide_lane) entry.wide_end = static_cast<std::int32_t>(plan.items.size());
  }
  entry.item_end = static_cast<std::int32_t>(plan.items.size());
  plan.phases.push_back(entry);
}

// The items and the schedule of one lane, from a share that may hold both: its wide tiles come first in each band.
void Emitter::emit_lane(const CostModel& cost, std::int32_t split_granule, std::span<const Group> groups,
                        std::span<const Tile> tiles, const Share& share, int lane, Plan& plan) {
  const std::span<const std::int32_t> all = share.tiles;
  const std::size_t num_long = std::min(share.num_long, all.size());
  std::int64_t lane_units = 0;
  for (int band = 0; band < 2; ++band) {
    const std::span list = band == 0 ? all.first(num_long) : all.subspan(num_long);
    const auto first_narrow =
        std::find_if(list.begin(), list.end(), [&](std::int32_t t) { return tiles[t].lane == narrow_lane; });
    const std::span wide = list.first(static_cast<std::size_t>(first_narrow - list.begin()));
    std::int64_t before = 0;  // units of the band that belong to the other lane
    if (lane == narrow_lane) {
      for (const std::int32_t t : wide) before += std::int64_t{tiles[t].num_pieces} * cost.num_heads();
    }

    const std::size_t items_before = plan.items.size();
    emit_band(groups, tiles, lane == wide_lane ? wide : list.subspan(wide.size()), split_granule, plan);
    const std::int64_t band_units = static_cast<std::int64_t>(plan.items.size() - items_before) * cost.num_heads();
    if (lane_units + band_units > std::numeric_limits<std::int32_t>::max()) {
      throw Error(ErrorCode::capacity_exceeded, "forest", "at most 2147483647 units of work in a lane",
                  std::to_string(lane_units + band_units));
    }
    const auto workers = static_cast<std::size_t>(cost.workers_of_item(lane));
    for (std::size_t w = 0; w <= static_cast<std::size_t>(cost.num_workers()); ++w) {
      const std::int64_t at = list.empty() ? 0 : share.begin[band][ceil_div(w, workers)] - before;
      plan.schedule.push_back(static_cast<std::int32_t>(lane_units + std::clamp<std::int64_t>(at, 0, band_units)));
    }
    lane_units += band_units;
  }
}

// Row tiles of one node lie side by side piece by piece, so that workers read the same tokens at the same time.
void Emitter::emit_band(std::span<const Group> groups, std::span<const Tile> tiles, std::span<const std::int32_t> list,
                        std::int32_t split_granule, Plan& plan) {
  std::size_t next = plan.items.size(), num_pieces = 0;
  for (const std::int32_t t : list) num_pieces += static_cast<std::size_t>(tiles[t].num_pieces);
  plan.items.resize(next + num_pieces);
  plan.segments.resize(next + num_pieces);
  WorkItem* items = plan.items.data();
  Segment* segments = plan.segments.data();
  for (std::size_t i = 0; i < list.size();) {
    const Tile& first = tiles[list[i]];
    const std::int32_t table_row = groups[first.group].table_row;
    std::size_t end = i + 1;
    while (end < list.size() && alike(first, tiles[list[end]])) ++end;
    std::int32_t token_begin = first.token_begin;
    for (std::int32_t piece = 0; piece < first.num_pieces; ++piece) {
      const std::int32_t token_end = piece_end(first, piece, split_granule);
      for (std::size_t j = i; j < end; ++j, ++next) {
        const Tile& tile = tiles[list[j]];
        items[next] = {.row_begin = tile.row_begin,
                       .num_rows = tile.num_rows,
                       .segment_begin = static_cast<std::int32_t>(next),
                       .num_segments = 1,
                       .partial_begin = partials_[tile.first_piece + piece],
                       .masked = tile.first_end < token_end};
        segments[next] = {table_row, token_begin, token_end};
      }
      token_begin = token_end;
    }
    i = end;
  }
}

// Walks over the rows with the groups that cover them: they nest, so they are a stack.
void Emitter::emit_merges(std::span<const Group> groups, std::span<const Tile> tiles, std::int32_t num_rows,
                          Plan& plan) {
  open_.clear();
  sources_.resize(std::max<std::size_t>(1, layer_next_.size()));
  std::size_t next = 0;
  for (std::int32_t row = 0; row < num_rows;) {
    while (!open_.empty() && groups[open_.back()].row_end <= row) open_.pop_back();
    while (next < groups.size() && groups[next].row_begin == row) open_.push_back(static_cast<std::int32_t>(next++));
    if (open_.size() == 1 && tiles[groups[open_[0]].tile_begin].direct() && groups[open_[0]].tile_count == 1) {
      row = groups[open_[0]].row_end;  // the usual request that shares nothing
      continue;
    }

    std::int32_t end = next < groups.size() ? groups[next].row_begin : num_rows;
    bool direct = false;
    std::int32_t num_sources = 0;
    for (const std::int32_t g : open_) {
      const Group& group = groups[g];
      const std::int32_t skipped = group.tile_count == 1 ? 0 : (row - group.row_begin) / group.tile_height;
      const Tile& tile = tiles[group.tile_begin + skipped];
      end = std::min(end, tile.row_begin + tile.num_rows);
      direct |= tile.direct();
      const std::int32_t* partials = partials_.data() + tile.first_piece;
      for (std::int32_t p = 0; p < tile.num_pieces; ++p) sources_[num_sources++] = partials[p] + row - tile.row_begin;
    }
    if (!direct) append_merges(row, end, num_sources, plan);
    row = end;
  }
}

// Adds the rows [row_begin, row_end), whose first has `sources_`, to the last merge as long as they continue it, then
// to new ones.
void Emitter::append_merges(std::int32_t row_begin, std::int32_t row_end, std::int32_t num_sources, Plan& plan) {
  std::int32_t row = row_begin;
  if (!plan.merges.empty()) {
    Merge& last = plan.merges.back();
    bool continues = last.row_begin + last.num_rows == row && last.num_sources == num_sources;
    for (std::int32_t s = 0; s < num_sources && continues; ++s) {
      continues = plan.merge_sources[last.source_begin + s] + last.num_rows == sources_[s];
    }
    if (continues) {
      const std::int32_t added = std::min(max_merge_rows - last.num_rows, row_end - row);
      last.num_rows += added;
      row += added;
    }
  }
  while (row < row_end) {
    const std::int32_t count = std::min(max_merge_rows, row_end - row);
    plan.merges.push_back({.row_begin = row,
                           .num_rows = count,
                           .source_begin = static_cast<std::int32_t>(plan.merge_sources.size()),
                           .num_sources = num_sources});
    for (std::int32_t s = 0; s < num_sources; ++s) plan.merge_sources.push_back(sources_[s] + row - row_begin);
    row += count;
  }
}

void Emitter::model(const Forest& forest, const Rows& rows, const CostModel& cost, const TileTotals& totals,
                    std::span<const Group> groups, std::span<const Tile> tiles, Plan& plan) {
  const auto nodes = forest.nodes();
  plan.choices.resize(nodes.size());
  for (std::size_t v = 0; v < nodes.size(); ++v) {
    plan.choices[v] = {.node = static_cast<std::int32_t>(v),
                       .rows = rows.of(nodes[v].request_begin, nodes[v].request_end)};
  }
  double row_tokens = 0, lane_seconds[num_lanes] = {0, 0};
  for (const Group& group : groups) {
    Plan::NodeChoice& choice = plan.choices[group.node];
    choice.kept = group.kept;
    if (group.kept) choice.tokens = group.token_end - group.token_begin;
    choice.row_tiles += group.tile_count;
    choice.splits = std::max(choice.splits, group.num_pieces);
    for (const Tile& tile : tiles.subspan(group.tile_begin, group.tile_count)) {
      if (tile.num_pieces == 0) continue;
      const double unit_seconds = tile.unit_seconds(tile.num_pieces);
      choice.seconds += cost.num_heads() * tile.num_pieces * unit_seconds * cost.workers_of_item(tile.lane);
      lane_seconds[tile.lane] += tile.num_pieces * unit_seconds;
      row_tokens += static_cast<double>(tile.num_tokens()) * tile.num_rows;
    }
  }

  Plan::Model& m = plan.model;
  m.kv_bytes = static_cast<std::int64_t>(totals.kv_tokens * cost.kv_bytes() * cost.num_heads());
  m.operations = row_tokens * cost.operations() * cost.num_heads();
  m.read_seconds = cost.read_seconds(totals.read_tokens);

  const double units_per_worker = static_cast<double>(cost.num_heads()) / cost.num_workers();
  for (std::size_t phase = 0; phase < num_phases_; ++phase) {
    const Share& wide = shares_[phase * num_lanes + wide_lane];
    const Share& narrow = shares_[phase * num_lanes + narrow_lane];
    m.item_seconds += std::max(cost.together(wide.busiest, narrow.busiest), cost.read_seconds(phase_tokens_[phase]));
    m.wide_seconds += wide.busiest;
    m.narrow_seconds += narrow.busiest;
  }
  if (!cost.lanes_overlap()) {
    m.wide_seconds = lane_seconds[wide_lane] * units_per_worker;
    m.narrow_seconds = lane_seconds[narrow_lane] * units_per_worker;
  }

  m.partial_bytes = static_cast<std::int64_t>(2.0 * static_cast<double>(plan.num_partial_rows) * cost.partial_bytes() *
                                              cost.num_heads());
  const auto merges = static_cast<std::int64_t>(plan.merges.size()) * cost.num_heads();
  std::int32_t most_sources = 0;
  for (const Merge& merge : plan.merges) most_sources = std::max(most_sources, merge.num_sources);
  m.merge_seconds = static_cast<double>(ceil_div<std::int64_t>(merges, cost.num_workers())) * cost.merge_seconds() +
                    static_cast<double>(plan.num_partial_rows) * cost.partial_row_seconds() * units_per_worker +
                    most_sources * cost.source_seconds();
  const std::size_t steps = plan.phases.size() + (plan.merges.empty() ? 0 : 1);
  m.fixed_seconds = cost.launch_seconds() + (steps > 1 ? static_cast<double>(steps - 1) * cost.phase_seconds() : 0.0);
  m.seconds = m.fixed_seconds + m.item_seconds + m.merge_seconds;
}

}  // namespace trunkline::plan
