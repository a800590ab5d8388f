// The planner and what it makes. Planning is a pure function: no device call, no environment, no clock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "trunkline/config.hpp"
#include "trunkline/forest.hpp"
#include "trunkline/work.hpp"

namespace trunkline {

namespace plan {
struct Scratch;  // of the implementation
}

/// Upper bounds on a plan's arrays: what a workspace has room for.
struct PlanLimits {
  std::int64_t max_query_tokens = 0;
  std::int64_t max_items = 0;
  std::int64_t max_segments = 0;
  std::int64_t max_merges = 0;
  std::int64_t max_merge_sources = 0;
  std::int64_t max_partial_rows = 0;
  std::int64_t max_phases = std::numeric_limits<std::int32_t>::max();  // at least 1, for two_phase 2
  friend bool operator==(const PlanLimits&, const PlanLimits&) = default;

  /// Room for every forest within the capacity: `unshared` without splits always fits. Beyond that, partials have
  /// room for a few levels of every row (more where the config's strategy shares at every level) and for splits that
  /// give every worker a few pieces. `hydragen` gets 16 phases: in a deeper forest the last one takes all levels below.
  static PlanLimits of(const Capacity& capacity, const AttentionConfig& config, const DeviceSpec& device);
};

/// Everything a kernel does, decided. Flat arrays of plain structs.
struct Plan {
  std::vector<QueryToken> query_tokens;  // forest order
  std::vector<WorkItem> items;           // by phase, wide before narrow, long before short
  std::vector<Segment> segments;
  std::vector<Merge> merges;  // ascending rows
  std::vector<std::int32_t> merge_sources;
  std::vector<Phase> phases;  // none is empty; a plan without items has none
  /// The static schedule. A unit is (item, KV head): unit u of a phase's lane is item lane_begin + u / num_kv_heads,
  /// head u % num_kv_heads. A lane's units form two bands: the long ones come first, then short ones that fill up what
  /// the long ones leave uneven. In each band worker w takes the units [s[w], s[w + 1]), s = schedule +
  /// schedule_offset(phase, lane, band); band 1 begins at the unit where band 0 ends. A backend that balances by itself
  /// may ignore it and take the items in order. Where the plan is `paired`, worker 2i has the wide units of a pair and
  /// worker 2i + 1 none of its own: the two take each of them together, the first 128 rows and the rest.
  std::vector<std::int32_t> schedule;
  /// lane 0 wide, 1 narrow; band 0 long, 1 short.
  std::size_t schedule_offset(std::size_t phase, int lane, int band) const noexcept {
    return ((phase * 2 + lane) * 2 + band) * (static_cast<std::size_t>(num_workers) + 1);
  }
  std::int64_t num_partial_rows = 0;  // partials are f32 [num_partial_rows, num_kv_heads, head_dim], lse likewise

  // What it was made from and for.
  int num_workers = 0;
  bool paired = false;  // wide items have up to 2 * wide.max_rows rows, for two workers each
  int num_kv_heads = 0;
  int group_size = 0;
  Strategy strategy = Strategy::automatic;

  /// Where the modelled time goes, in seconds.
  struct Model {
    double seconds = 0;  // the whole launch
    /// KV bytes over the read bandwidth, a lower bound of the items' time. Row tiles of the same tokens read them once.
    double read_seconds = 0;
    double item_seconds = 0;    // the items, lanes put together; summed over phases like the next two
    double wide_seconds = 0;    // the busiest worker's wide lane
    double narrow_seconds = 0;  // the busiest worker's narrow lane
    double merge_seconds = 0;
    double fixed_seconds = 0;        // the launch, and a barrier after each phase that something follows
    std::int64_t kv_bytes = 0;       // KV bytes the items read, all heads
    std::int64_t partial_bytes = 0;  // partials written and read back
    double operations = 0;           // 4 * rows * tokens * head_dim, unpadded, all heads
  } model;

  /// The choice per node of the forest, in the forest's order.
  struct NodeChoice {
    std::int32_t node = 0;
    bool kept = false;           // false: its tokens went to its children and to the requests that end in it
    std::int32_t tokens = 0;     // tokens its items cover, those given down from above included; 0 when given back
    std::int32_t rows = 0;       // rows that share it
    std::int32_t row_tiles = 0;  // of the node, or of the requests that end in it and took its tokens
    std::int32_t splits = 0;     // pieces of a row tile, the most
    double seconds = 0;          // modelled, of those items, summed over workers and heads
  };
  std::vector<NodeChoice> choices;
  bool shed = false;  // splits or sharing were given up to stay within the limits

  /// Empties the plan and keeps its memory.
  void clear();
  /// Throws Error(corrupt) naming the first violation unless every visible (row, token) of the forest is covered
  /// exactly once through the right pages, every partial is merged exactly once and in ascending position, every row is
  /// finished exactly once, and phases and schedule cover every item and unit once. It reads the arrays and the
  /// forest's tables alone. O(rows of items * segments), meant for tests. The error's argument is the entry,
  /// "items[3]".
  void check(const Forest& forest) const;
  /// For people, with the shared nodes and those that cost most, 40 at most; and the same facts, every node, as one
  /// JSON object. Throws invalid_argument for a forest of other nodes or query tokens than the planned one.
  std::string explain(const Forest& forest) const;
  std::string explain_json(const Forest& forest) const;

 private:
  friend class Planner;
  /// What planning needs in between, kept so that the next plan_into allocates nothing and finds it in the cache. It
  /// stays with its object: copying, moving and swapping plans leave it where it is.
  class ScratchOwner {
   public:
    ScratchOwner() noexcept;
    ~ScratchOwner();
    ScratchOwner(const ScratchOwner&) noexcept;
    ScratchOwner& operator=(const ScratchOwner&) noexcept;
    plan::Scratch& get();  // made on first use

   private:
    std::unique_ptr<plan::Scratch> scratch_;
  } scratch_;
};

class Planner {
 public:
  /// Throws what `DeviceSpec::validate` and `AttentionConfig::validate` throw.
  Planner(DeviceSpec device, AttentionConfig config);

  /// Without limits nothing is shed. Throws invalid_argument when the forest's page_size is not the config's, and
  /// capacity_exceeded beyond 2^31 - 1 rows or units.
  Plan plan(const Forest& forest, const std::optional<PlanLimits>& limits = std::nullopt) const;
  /// The same into an existing plan, whose memory is used again. When it throws, the plan is empty.
  void plan_into(Plan& plan, const Forest& forest, const std::optional<PlanLimits>& limits = std::nullopt) const;

  const DeviceSpec& device() const noexcept { return device_; }
  const AttentionConfig& config() const noexcept { return config_; }

 private:
  void make(Plan& plan, const Forest& forest, const std::optional<PlanLimits>& limits) const;

  DeviceSpec device_;
  AttentionConfig config_;
};

}  // namespace trunkline
