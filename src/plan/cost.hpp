// The cost model: what a piece of work takes on a device, from the numbers of its DeviceSpec alone.
//
// The unit of cost is one KV head of one item. A worker gets the W-th part of the device: of the read bandwidth (no
// more than one worker can draw), of the lane's arithmetic rate and of the bandwidth of partials. A unit takes the
// lane's fixed time, then per token, but at least for a token granule, the longer of reading K and V and of
// multiplying, then the time to write its partial. KV heads of a short item that are taken at once share the fixed time
// and the granules.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "base/check.hpp"
#include "trunkline/config.hpp"

namespace trunkline::plan {

enum LaneIndex : int { wide_lane = 0, narrow_lane = 1, num_lanes = 2 };

/// Marginal price of a second in each lane. Where lanes overlap, a launch takes max(w, n) + penalty * min(w, n), so a
/// second costs 1 in the longer lane and only the penalty in the shorter one.
struct Price {
  std::array<double, num_lanes> lane{1.0, 1.0};
  friend bool operator==(const Price&, const Price&) = default;
};

/// How a node's rows are cut: tiles of `height` rows, the last one with what is left. Costs are those of all tiles
/// together, for one KV head.
struct Tiling {
  std::int32_t height = 0;
  std::int32_t count = 0;
  double item_seconds = 0;   // fixed, priced
  double token_seconds = 0;  // per token, priced
};

class CostModel {
 public:
  CostModel(const DeviceSpec& device, const AttentionConfig& config)
      : num_workers_(device.num_workers),
        num_heads_(config.num_kv_heads),
        token_granule_(device.token_granule),
        packed_rows_(device.packed_rows),
        packed_tokens_(device.packed_tokens),
        lanes_overlap_(device.lanes_overlap),
        overlap_penalty_(device.overlap_penalty),
        pair_gain_(device.paired_flops / std::max(device.wide.flops, 1.0)),
        spec_{device.wide, device.narrow} {
    const double workers = device.num_workers;
    const double share = std::min(device.worker_bandwidth, device.read_bandwidth / workers);
    kv_bytes_ = static_cast<double>(config.kv_bytes_per_token()) / num_heads_;
    read_bandwidth_ = device.read_bandwidth;
    read_token_seconds_ = kv_bytes_ / share;
    operations_ = 4.0 * config.head_dim;
    for (int lane = 0; lane < num_lanes; ++lane) {
      if (has(lane)) row_token_seconds_[lane] = operations_ / (spec_[lane].flops / workers);
    }
    partial_bytes_ = 4.0 * (config.head_dim + 1);  // f32: out and lse
    partial_row_seconds_ = partial_bytes_ / (device.partial_bandwidth / workers);
    merge_seconds_ = device.merge_seconds;
    source_seconds_ = device.source_seconds;
    phase_seconds_ = device.phase_seconds;
    launch_seconds_ = device.launch_seconds;
  }

  int num_workers() const { return num_workers_; }
  int num_heads() const { return num_heads_; }

  /// Two workers may share the tokens of a wide item, half of the rows each, and, as decided, do.
  bool can_pair() const { return pair_gain_ > 0 && lanes_overlap_ && num_workers_ % 2 == 0; }
  bool paired() const { return paired_; }
  void set_paired(bool paired) { paired_ = paired; }
  /// How much faster each is than alone.
  double pair_gain() const { return pair_gain_; }
  std::int32_t paired_rows() const { return 2 * spec_[wide_lane].max_rows; }
  int workers_of_item(int lane) const { return paired_ && lane == wide_lane ? 2 : 1; }
  /// The most rows that one worker has of an item of so many.
  std::int32_t rows_each(int lane, std::int32_t rows) const {
    return workers_of_item(lane) > 1 ? std::min(rows, spec_[lane].max_rows) : rows;
  }

  bool lanes_overlap() const { return lanes_overlap_; }
  double overlap_penalty() const { return overlap_penalty_; }
  double kv_bytes() const { return kv_bytes_; }            // of one token and KV head
  double operations() const { return operations_; }        // of one row and token
  double partial_bytes() const { return partial_bytes_; }  // of one row and KV head
  double merge_seconds() const { return merge_seconds_; }
  double source_seconds() const { return source_seconds_; }
  double phase_seconds() const { return phase_seconds_; }
  double launch_seconds() const { return launch_seconds_; }
  /// All workers reading so many tokens, every KV head.
  double read_seconds(double kv_tokens) const { return kv_tokens * kv_bytes_ * num_heads_ / read_bandwidth_; }
  /// To write, or to read back, one row of a partial.
  double partial_row_seconds() const { return partial_row_seconds_; }

  /// The lane that serves items of so many rows: few rows go to the narrow one, if there is one.
  int lane_of(std::int32_t rows) const {
    if (!has(wide_lane)) return narrow_lane;
    return is_narrow(rows) ? narrow_lane : wide_lane;
  }
  double item_seconds(int lane) const { return spec_[lane].item_seconds; }
  double masked_seconds(int lane) const { return spec_[lane].masked_seconds; }
  /// KV heads that are taken at once of an item of so many rows and tokens.
  std::int32_t heads_at_once(std::int32_t rows, double tokens) const {
    return is_narrow(rows) ? trunkline::heads_at_once(rows, tokens, packed_rows_, packed_tokens_, num_heads_) : 1;
  }
  /// Of one of `tiles` row tiles of the same tokens. They run at about the same time: one reads memory, the others the
  /// last-level cache.
  double token_seconds(int lane, std::int32_t rows, std::int32_t tiles) const {
    const int workers = workers_of_item(lane);
    return std::max(read_token_seconds_ / std::min<double>(workers * tiles, cache_gain),
                    round_up(rows_each(lane, rows), spec_[lane].row_granule) * row_token_seconds_[lane] /
                        (workers > 1 ? pair_gain_ : 1));
  }

  /// Tokens that an item of so many takes the time of, of each head: fewer than a granule take as long as a whole one.
  /// Heads that are taken at once, and narrow items of more rows than those have, take whole granules.
  double run_tokens(std::int32_t rows, double tokens) const {
    const double heads = heads_at_once(rows, tokens);
    const double granules = std::max(heads * tokens / token_granule_, 1.0);
    const bool whole = heads > 1 || (is_narrow(rows) && rows > packed_rows_);
    return (whole ? std::ceil(granules) : granules) * token_granule_ / heads;
  }

  /// Few enough rows for one item of the narrow lane.
  bool is_narrow(std::int32_t rows) const { return rows <= spec_[narrow_lane].max_rows; }

  /// The cheaper of many-row tiles and of few-row tiles for items over `tokens` tokens.
  Tiling tile(std::int32_t rows, double tokens, const Price& price) const {
    if (is_narrow(rows) || !has(narrow_lane)) return tiled(lane_of(rows), rows, price);
    const Tiling narrow = tiled(narrow_lane, rows, price);
    if (!has(wide_lane)) return narrow;
    const Tiling wide = tiled(wide_lane, rows, price);
    auto cost = [tokens](const Tiling& t) { return t.item_seconds + tokens * t.token_seconds; };
    return cost(narrow) < cost(wide) ? narrow : wide;
  }

  /// The lanes of a phase put together, given each alone.
  double together(double wide, double narrow) const {
    if (!lanes_overlap_) return wide + narrow;
    return std::max(wide, narrow) + overlap_penalty_ * std::min(wide, narrow);
  }

 private:
  // How much more the last-level cache delivers than memory: on an H200 the Hopper kernel's loads, without products,
  // took 1000 cycles for 32 KiB per SM, 7.3 TB/s.
  static constexpr double cache_gain = 1.6;

  bool has(int lane) const { return spec_[lane].max_rows > 0; }

  // As few tiles as the lane allows, alike, but whole granules: what padding is left falls to the last one alone.
  Tiling tiled(int lane, std::int32_t rows, const Price& price) const {
    const DeviceSpec::Lane& spec = spec_[lane];
    const std::int32_t fewest = ceil_div(rows, spec.max_rows);
    const std::int32_t height = std::min(spec.max_rows, round_up(ceil_div(rows, fewest), spec.row_granule));
    const std::int32_t count = ceil_div(rows, height);
    Tiling tiling{height, count, 0, 0};
    auto add = [&](std::int32_t tile_rows, std::int32_t times) {
      const int served_by = lane_of(tile_rows);
      tiling.item_seconds += times * price.lane[served_by] * item_seconds(served_by);
      tiling.token_seconds += times * price.lane[served_by] * token_seconds(served_by, tile_rows, count);
    };
    if (count > 1) add(height, count - 1);
    add(rows - (count - 1) * height, 1);
    return tiling;
  }

  int num_workers_, num_heads_;
  double token_granule_;
  std::int32_t packed_rows_, packed_tokens_;
  bool lanes_overlap_;
  bool paired_ = false;
  double overlap_penalty_;
  double pair_gain_;
  std::array<DeviceSpec::Lane, num_lanes> spec_;
  std::array<double, num_lanes> row_token_seconds_{};
  double kv_bytes_, read_bandwidth_, read_token_seconds_, operations_;
  double partial_bytes_, partial_row_seconds_, merge_seconds_, source_seconds_, phase_seconds_, launch_seconds_;
};

/// Tilings at one price. Most requests of a batch have the same number of rows, and few rows make one tile however many
/// tokens there are.
class TilingMemo {
 public:
  TilingMemo() = default;
  TilingMemo(const CostModel& cost, const Price& price) : cost_(&cost), price_(price) {}

  const Tiling& of(std::int32_t rows, double tokens) {
    if (rows != rows_ || !cost_->is_narrow(rows)) {
      rows_ = rows;
      tiling_ = cost_->tile(rows, tokens, price_);
    }
    return tiling_;
  }

 private:
  const CostModel* cost_ = nullptr;
  Price price_;
  std::int32_t rows_ = -1;
  Tiling tiling_;
};

}  // namespace trunkline::plan
