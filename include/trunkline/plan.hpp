// The planner and what it makes. Planning is a pure function: no device call, no environment, no clock.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "trunkline/config.hpp"
#include "trunkline/forest.hpp"
#include "trunkline/work.hpp"

namespace trunkline {

/// Upper bounds on a plan's arrays: what a workspace has room for.
struct PlanLimits {
  std::int64_t max_query_tokens = 0;
  std::int64_t max_items = 0;
  std::int64_t max_segments = 0;
  std::int64_t max_merges = 0;
  std::int64_t max_merge_sources = 0;
  std::int64_t max_partial_rows = 0;

  /// Room for every forest within the capacity: `unshared` without splits always fits.
  static PlanLimits of(const Capacity& capacity, const AttentionConfig& config, const DeviceSpec& device);
};

/// Everything a kernel does, decided. Flat arrays of plain structs.
struct Plan {
  std::vector<QueryToken> query_tokens;  // forest order
  std::vector<WorkItem> items;           // by phase, wide before narrow, in the order workers take them
  std::vector<Segment> segments;
  std::vector<Merge> merges;
  std::vector<std::int32_t> merge_sources;
  std::vector<Phase> phases;
  /// The static schedule. A unit is (item, KV head): unit u of a phase's lane is item lane_begin + u / num_kv_heads,
  /// head u % num_kv_heads. Worker w takes units [s[w], s[w + 1]) where s = schedule + (2 * phase + lane) *
  /// (num_workers + 1), lane 0 wide, 1 narrow. A backend that balances by itself may ignore it.
  std::vector<std::int32_t> schedule;
  std::int64_t num_partial_rows = 0;  // partials are f32 [num_partial_rows, num_kv_heads, head_dim], lse likewise

  // What it was made from and for.
  int num_workers = 0;
  int num_kv_heads = 0;
  int group_size = 0;
  Strategy strategy = Strategy::automatic;

  /// Where the modelled time goes, in seconds.
  struct Model {
    double seconds = 0;        // the whole launch
    double read_seconds = 0;   // KV bytes over the read bandwidth
    double wide_seconds = 0;   // the busiest worker's wide lane
    double narrow_seconds = 0; // the busiest worker's narrow lane
    double merge_seconds = 0;
    std::int64_t kv_bytes = 0;       // KV bytes the items read, all heads
    std::int64_t partial_bytes = 0;  // partials written and read back
    double operations = 0;           // 4 * rows * tokens * head_dim, unpadded, all heads
  } model;

  /// The choice per node of the forest.
  struct NodeChoice {
    std::int32_t node = 0;
    bool kept = false;               // false: its tokens went to its children or requests
    std::int32_t tokens = 0;         // tokens its items cover, those given down from above included; 0 when given back
    std::int32_t rows = 0;
    std::int32_t row_tiles = 0;
    std::int32_t splits = 0;
    double seconds = 0;              // modelled, summed over workers and heads
  };
  std::vector<NodeChoice> choices;
  bool shed = false;  // splits or sharing were given up to stay within the limits

  void clear();
  /// Throws Error(corrupt) naming the first violation unless every visible (row, token) of the forest is covered
  /// exactly once through the right table row, every partial is merged exactly once and in ascending position, direct
  /// rows have one item, and the schedule covers every unit once. O(rows of items * segments), meant for tests.
  void check(const Forest& forest) const;
  /// For people, with modelled times per node; and the same facts as one JSON object.
  std::string explain(const Forest& forest) const;
  std::string explain_json(const Forest& forest) const;
};

class Planner {
 public:
  /// Throws what `DeviceSpec::validate` and `AttentionConfig::validate` throw.
  Planner(DeviceSpec device, AttentionConfig config);

  /// Without limits nothing is shed.
  Plan plan(const Forest& forest, const std::optional<PlanLimits>& limits = std::nullopt) const;
  /// The same into an existing plan, whose memory is used again.
  void plan_into(Plan& plan, const Forest& forest, const std::optional<PlanLimits>& limits = std::nullopt) const;

  const DeviceSpec& device() const noexcept { return device_; }
  const AttentionConfig& config() const noexcept { return config_; }

 private:
  DeviceSpec device_;
  AttentionConfig config_;
};

}  // namespace trunkline
