// The search: candidates, cost, compare.
#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "base/check.hpp"
#include "plan/balance.hpp"
#include "plan/emit.hpp"
#include "plan/groups.hpp"
#include "plan/scratch.hpp"
#include "plan/tiles.hpp"
#include "trunkline/plan.hpp"

namespace trunkline {

struct plan::Scratch {
  Rows rows;
  Grouping grouping;
  std::vector<Group> groups;
  std::vector<Tile> tiles;
  TileTotals totals;
  Emitter emitter;
};

Plan::ScratchOwner::ScratchOwner() noexcept = default;
Plan::ScratchOwner::~ScratchOwner() = default;
Plan::ScratchOwner::ScratchOwner(const ScratchOwner&) noexcept {}
// NOLINTNEXTLINE(bugprone-unhandled-self-assignment): nothing is assigned
Plan::ScratchOwner& Plan::ScratchOwner::operator=(const ScratchOwner&) noexcept { return *this; }
plan::Scratch& Plan::ScratchOwner::get() {
  if (!scratch_) scratch_ = std::make_unique<plan::Scratch>();
  return *scratch_;
}

void Plan::clear() {
  query_tokens.clear();
  items.clear();
  segments.clear();
  merges.clear();
  merge_sources.clear();
  phases.clear();
  schedule.clear();
  num_partial_rows = 0;
  num_workers = num_kv_heads = group_size = 0;
  paired = false;
  strategy = Strategy::automatic;
  model = {};
  choices.clear();
  shed = false;
}

namespace plan {
namespace {

// Split boundaries are multiples of this many tokens: whole pages where those are of a usual size, so that no page is
// read by two items, and never so small that a piece is shorter than a step of a kernel.
std::int32_t split_granule(int page_size, int token_granule) {
  return std::max(std::clamp(page_size, 16, 64), token_granule);
}

bool fits(const Plan& plan, const PlanLimits& limits) {
  auto within = [](const auto& entries, std::int64_t most) {
    return static_cast<std::int64_t>(entries.size()) <= most;
  };
  return within(plan.items, limits.max_items) && within(plan.segments, limits.max_segments) &&
         within(plan.merges, limits.max_merges) && within(plan.merge_sources, limits.max_merge_sources) &&
         within(plan.phases, limits.max_phases) && plan.num_partial_rows <= limits.max_partial_rows;
}

// What the indices of a plan can name.
constexpr PlanLimits no_limits() {
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  return {most, most, most, most, most, most, most};
}

class Search {
 public:
  Search(const Forest& forest, const CostModel& cost, std::int32_t granule, Plan& plan, Scratch& scratch)
      : forest_(forest), cost_(cost), granule_(granule), plan_(plan), scratch_(scratch) {
    scratch.grouping.begin(forest, scratch.rows, cost);
  }

  /// Groups and tiles of what was decided; returns a bound below the modelled time of any plan of them.
  double cut() {
    scratch_.grouping.build(scratch_.groups);
    pair(scratch_.groups, cost_);
    cut_tiles(plan_.query_tokens, scratch_.rows.causal, plan_.group_size, cost_, scratch_.groups, scratch_.tiles,
              scratch_.totals);
    return lower_bound(scratch_.totals, cost_);
  }

  /// The plan of the tiles.
  void emit(const SplitOptions& options) {
    plan_.paired = cost_.paired();
    scratch_.emitter.emit(forest_, scratch_.rows, cost_, options, granule_, scratch_.totals, scratch_.groups,
                          scratch_.tiles, plan_);
  }

  void make(const Choice& choice, const SplitOptions& options) {
    scratch_.grouping.decide(choice);
    cut();
    emit(options);
  }

  /// Of all ways to use the sharing, the one that the model finds fastest: what the prices say, nothing and everything
  /// (so no named strategy is faster), and what the prices say when a second of the lane that is hidden under the other
  /// counts only what it slows that down.
  void make_best(const SplitOptions& options, double reluctance) {
    num_seen_ = 0;
    best_seconds_ = std::numeric_limits<double>::infinity();
    consider({.reluctance = reluctance}, options);
    if (scratch_.grouping.num_shared() == 0) return;  // nothing to decide
    consider({.keep_none = true}, options);
    if (reluctance <= 1) consider({.keep_all = true}, options);
    if (cost_.lanes_overlap() && cost_.overlap_penalty() < 1) {
      Price price;
      price.lane[best_wide_is_shorter_ ? wide_lane : narrow_lane] = cost_.overlap_penalty();
      consider({.price = price, .reluctance = reluctance}, options);
    }
    if (!emitted_best_) make(best_, options);
  }

 private:
  /// Lays a choice out, unless it comes to one that was considered or its lower bound is above the best so far.
  void consider(const Choice& choice, const SplitOptions& options) {
    const Grouping::Outcome outcome = scratch_.grouping.decide(choice);
    const auto seen_end = seen_.begin() + num_seen_;
    if (std::find(seen_.begin(), seen_end, outcome.hash) != seen_end) return;
    seen_[num_seen_++] = outcome.hash;
    const double read_seconds = cost_.read_seconds(static_cast<double>(outcome.kv_tokens));
    if (!scratch_.rows.causal && cost_.launch_seconds() + read_seconds >= best_seconds_) return;  // no need to cut
    if (cut() >= best_seconds_) return;
    emit(options);
    emitted_best_ = plan_.model.seconds < best_seconds_;
    if (!emitted_best_) return;
    best_ = choice;
    best_seconds_ = plan_.model.seconds;
    best_wide_is_shorter_ = plan_.model.wide_seconds < plan_.model.narrow_seconds;
  }

  const Forest& forest_;
  CostModel cost_;  // of workers in pairs or not, as the last cut found better
  std::int32_t granule_;
  Plan& plan_;
  Scratch& scratch_;

  // Of make_best
  std::array<std::uint64_t, 4> seen_{};
  int num_seen_ = 0;
  Choice best_;
  double best_seconds_ = 0;
  bool best_wide_is_shorter_ = false;
  bool emitted_best_ = false;  // the plan holds the best choice
};

}  // namespace
}  // namespace plan

Planner::Planner(DeviceSpec device, AttentionConfig config) : device_(std::move(device)), config_(config) {
  device_.validate();
  config_.validate();
}

Plan Planner::plan(const Forest& forest, const std::optional<PlanLimits>& limits) const {
  Plan plan;
  plan_into(plan, forest, limits);
  return plan;
}

void Planner::plan_into(Plan& plan, const Forest& forest, const std::optional<PlanLimits>& limits) const {
  try {
    make(plan, forest, limits);
  } catch (...) {
    plan.clear();
    throw;
  }
}

void Planner::make(Plan& plan, const Forest& forest, const std::optional<PlanLimits>& limits) const {
  plan.clear();
  require(forest.num_requests() == 0 || forest.page_size() == config_.page_size, "forest.page_size", config_.page_size,
          forest.page_size());
  plan::Scratch& scratch = plan.scratch_.get();
  plan.num_workers = device_.num_workers;
  plan.num_kv_heads = config_.num_kv_heads;
  plan.group_size = config_.group_size();
  plan.strategy = config_.strategy;
  plan::number_rows(forest, plan.group_size, plan.query_tokens, scratch.rows);

  const plan::CostModel cost(device_, config_);
  const PlanLimits most = limits.value_or(plan::no_limits());
  plan::Search search(forest, cost, plan::split_granule(config_.page_size, device_.token_granule), plan, scratch);
  plan::Choice named{.strategy = config_.strategy};
  auto wanted = [&](const plan::SplitOptions& options, double reluctance) {
    if (config_.strategy == Strategy::automatic) {
      search.make_best(options, reluctance);
    } else {
      search.make(named, options);
    }
    return plan::fits(plan, most);
  };

  // Fewer levels and splits, then less sharing, at last neither: that always fits (see PlanLimits::of).
  if (wanted({}, 1)) return;
  plan.shed = true;
  if (static_cast<std::int64_t>(plan.phases.size()) > most.max_phases) {
    named.max_levels = static_cast<std::int32_t>(most.max_phases);
    if (wanted({}, 1)) return;
  }
  if (wanted({.allowed = true, .fill_up = false}, 1) || wanted({.allowed = false, .fill_up = false}, 1)) return;
  if (config_.strategy == Strategy::automatic) {
    for (const double reluctance : {4.0, 16.0, 64.0}) {
      if (wanted({.allowed = false, .fill_up = false}, reluctance)) return;
    }
  }
  search.make({.strategy = Strategy::unshared}, {.allowed = false, .fill_up = false});
}

}  // namespace trunkline
