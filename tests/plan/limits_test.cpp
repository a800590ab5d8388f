// Every forest within capacity fits: splits and sharing are shed, never the work.
#include <gtest/gtest.h>

#include "plan/shapes.hpp"

namespace trunkline {
namespace {

using test::config_of;
using test::prefix_forest;

std::int64_t count(const auto& entries) { return static_cast<std::int64_t>(entries.size()); }

void expect_within(const Plan& plan, const PlanLimits& limits) {
  EXPECT_LE(count(plan.query_tokens), limits.max_query_tokens);
  EXPECT_LE(count(plan.items), limits.max_items);
  EXPECT_LE(count(plan.segments), limits.max_segments);
  EXPECT_LE(count(plan.merges), limits.max_merges);
  EXPECT_LE(count(plan.merge_sources), limits.max_merge_sources);
  EXPECT_LE(plan.num_partial_rows, limits.max_partial_rows);
  EXPECT_LE(count(plan.phases), limits.max_phases);
}

TEST(Limits, AmpleOnesChangeNothing) {
  const Forest forest = prefix_forest(64, 4096, 256, 16);
  const AttentionConfig config = config_of(32, 8, 16);
  const Planner planner(DeviceSpec::h200(), config);
  const PlanLimits limits = PlanLimits::of({64, 64, 1000}, config, DeviceSpec::h200());
  const Plan free = planner.plan(forest), bound = planner.plan(forest, limits);
  EXPECT_FALSE(bound.shed);
  EXPECT_EQ(free.items.size(), bound.items.size());
  EXPECT_EQ(free.num_partial_rows, bound.num_partial_rows);
}

TEST(Limits, SplitsAreShedBeforeSharing) {
  const Forest forest = prefix_forest(64, 4096, 256, 16);
  const Planner planner(DeviceSpec::h200(), config_of(32, 8, 16));
  const Plan wanted = planner.plan(forest);
  ASSERT_GT(wanted.choices[0].splits, 1);
  const std::int64_t rows = 64 * 4;
  const Plan shed = planner.plan(forest, PlanLimits{64, 1000, 1000, 1000, 1000, 2 * rows});
  shed.check(forest);
  EXPECT_TRUE(shed.shed);
  EXPECT_LE(shed.num_partial_rows, 2 * rows);
  EXPECT_TRUE(shed.choices[0].kept) << "one partial above and one below each row are enough to share";
  EXPECT_EQ(shed.choices[0].splits, 1);
}

TEST(Limits, WithoutPartialsEverythingIsUnshared) {
  for (const Strategy strategy : {Strategy::automatic, Strategy::unshared, Strategy::two_phase, Strategy::hydragen}) {
    const Forest forest = prefix_forest(64, 4096, 256, 16);
    const Plan plan =
        Planner(DeviceSpec::h200(), config_of(32, 8, 16, strategy)).plan(forest, PlanLimits{64, 64, 64, 0, 0, 0});
    plan.check(forest);
    EXPECT_EQ(plan.shed, strategy != Strategy::unshared);
    EXPECT_EQ(plan.items.size(), 64u);
    EXPECT_TRUE(plan.merges.empty());
    EXPECT_EQ(plan.phases.size(), 1u);
    EXPECT_EQ(plan.strategy, strategy);
  }
}

TEST(Limits, TheLastPhaseTakesTheLevelsBelow) {
  const int nodes[] = {1, 2, 4, 8, 16}, tokens[] = {64, 64, 64, 64, 64};
  const Forest forest = test::tree_forest(nodes, tokens, 16);
  const AttentionConfig config = config_of(8, 8, 16, Strategy::hydragen);
  const Planner planner(DeviceSpec::h200(), config);
  for (const std::int64_t phases : {1, 2, 3, 4, 5, 6}) {
    PlanLimits limits = PlanLimits::of({16, 16, 1000}, config, DeviceSpec::h200());
    limits.max_phases = phases;
    const Plan plan = planner.plan(forest, limits);
    plan.check(forest);
    expect_within(plan, limits);
    EXPECT_EQ(count(plan.phases), std::min<std::int64_t>(phases, 5));
    EXPECT_EQ(plan.shed, phases < 5);
    for (const Plan::NodeChoice& choice : plan.choices) {
      const Node& node = forest.nodes()[choice.node];
      const bool shared = node.request_end - node.request_begin > 1;
      if (shared) {
        EXPECT_EQ(choice.kept, node.first_token / 64 < phases - 1) << phases;
      }
    }
  }
}

TEST(Limits, DeepForestsShareLessWhenPartialsAreFew) {
  const int nodes[] = {1, 2, 4, 8, 16, 32, 64, 128}, tokens[] = {512, 512, 512, 512, 512, 512, 512, 512};
  const Forest forest = test::tree_forest(nodes, tokens, 16);
  const Planner planner(DeviceSpec::generic_cpu(2), config_of(8, 8, 16));
  const Plan wanted = planner.plan(forest);
  ASSERT_FALSE(wanted.shed);
  ASSERT_GT(wanted.num_partial_rows, 0);
  for (std::int64_t most = wanted.num_partial_rows; most >= 0; most -= 32) {
    const PlanLimits limits{128, 1000, 1000, 1000, 10000, most};
    const Plan plan = planner.plan(forest, limits);
    plan.check(forest);
    expect_within(plan, limits);
    EXPECT_EQ(plan.shed, most < wanted.num_partial_rows);
  }
}

TEST(Limits, PlainUnsharedAlwaysFits) {
  // Rows that just overflow a tile, requests without tokens between others, and lanes of odd sizes.
  for (const int group_size : {1, 3, 7, 33, 64}) {
    for (const int max_rows : {1, 8, 31, 256}) {
      DeviceSpec device = DeviceSpec::generic_cpu(3);
      device.wide = {.max_rows = max_rows, .row_granule = 16, .flops = 1e11, .item_seconds = 1e-6};
      device.narrow.max_rows = max_rows == 256 ? 8 : 0;
      const std::vector<std::int32_t> seq_lens{5, 0, 9, 0, 0, 300, 1}, qo_lens{1, 1, 5, 3, 0, 2, 1};
      const Forest forest = test::separate_forest(seq_lens, 4, qo_lens);
      const AttentionConfig config = config_of(2 * group_size, 2, 4);
      PlanLimits limits = PlanLimits::of({7, 13, 75}, config, device);
      limits.max_partial_rows = limits.max_merge_sources = 0;  // force the last resort
      const Plan plan = Planner(device, config).plan(forest, limits);
      plan.check(forest);
      expect_within(plan, limits);
    }
  }
}

TEST(Limits, MemoryOfPartialsIsASmallMultipleOfTheRows) {
  const AttentionConfig config = config_of(32, 8, 16);
  const PlanLimits limits = PlanLimits::of({256, 256, 4096}, config, DeviceSpec::h200());
  const std::int64_t rows = 256 * 4;
  EXPECT_GE(limits.max_partial_rows, 4 * rows);
  EXPECT_LE(limits.max_partial_rows * 8 * 129 * 4, 256ll << 20) << "bytes";
  const PlanLimits one = PlanLimits::of({1, 1, 4096}, config, DeviceSpec::h200());
  EXPECT_LE(one.max_partial_rows, 1000);
  const PlanLimits none = PlanLimits::of({0, 0, 0}, config, DeviceSpec::h200());
  EXPECT_EQ(none.max_partial_rows, 0);
}

}  // namespace
}  // namespace trunkline
