// What is shared and what is given back.
#include <gtest/gtest.h>

#include "plan/support.hpp"

namespace trunkline {
namespace {

using test::config_of;
using test::prefix_forest;
using test::tree_forest;

std::size_t num_kept_shared(const Plan& plan, const Forest& forest) {
  std::size_t count = 0;
  for (const Plan::NodeChoice& choice : plan.choices) {
    const Node& node = forest.nodes()[choice.node];
    count += choice.kept && node.request_end - node.request_begin > 1;
  }
  return count;
}

class OnDevice : public testing::TestWithParam<DeviceSpec> {};
INSTANTIATE_TEST_SUITE_P(Choice, OnDevice, testing::Values(DeviceSpec::h200(), DeviceSpec::generic_cpu(2)),
                         [](const auto& device) { return device.param.lanes_overlap ? "H200" : "Cpu"; });

TEST_P(OnDevice, ThreeSharedTokensAreGivenBack) {
  const Forest forest = prefix_forest(8, 3, 200, 1);
  const Plan plan = Planner(GetParam(), config_of(32, 8, 1)).plan(forest);
  plan.check(forest);
  EXPECT_FALSE(plan.choices[0].kept);
  EXPECT_EQ(plan.choices[0].tokens, 0);
  for (std::size_t leaf = 1; leaf < plan.choices.size(); ++leaf) {
    EXPECT_TRUE(plan.choices[leaf].kept);
    EXPECT_EQ(plan.choices[leaf].tokens, 203) << "the three tokens and its own, as one run";
  }
  for (const Segment& segment : plan.segments) EXPECT_GE(segment.token_end - segment.token_begin, 16);
}

TEST_P(OnDevice, FourThousandSharedTokensAreKept) {
  const Forest forest = prefix_forest(32, 4096, 64, 16);
  const Plan plan = Planner(GetParam(), config_of(32, 32, 16)).plan(forest);
  plan.check(forest);
  EXPECT_TRUE(plan.choices[0].kept);
  EXPECT_EQ(plan.choices[0].tokens, 4096);
  std::int64_t tokens = 0;
  for (const Segment& segment : plan.segments) tokens += segment.token_end - segment.token_begin;
  EXPECT_EQ(tokens, forest.distinct_tokens()) << "every distinct token is read once";
}

// A tile has room for 64 tokens, however few a leaf has: tokens of the node above are free there, an item is not. Eight
// rows fill it.
TEST(OnTheHopperKernel, ShortLeavesTakeInTheNodesAbove) {
  const int nodes[] = {1, 64, 256}, tokens[] = {2048, 16, 16}, whole[] = {2048, 64, 64};
  const Planner planner(DeviceSpec::h200(), config_of(64, 8, 16));
  const Forest short_leaves = tree_forest(nodes, tokens, 16), whole_leaves = tree_forest(nodes, whole, 16);
  const Plan plan = planner.plan(short_leaves);
  plan.check(short_leaves);
  EXPECT_EQ(num_kept_shared(plan, short_leaves), 1u) << "the root alone";
  EXPECT_EQ(num_kept_shared(planner.plan(whole_leaves), whole_leaves), 65u) << "where leaves fill their tiles";
}
TEST(OnTheHopperKernel, AnItemTakesAsLongAsAWholeTile) {
  const Planner planner(DeviceSpec::h200(), config_of(64, 8, 16, Strategy::unshared));
  const auto narrow_seconds = [&](int tokens) {
    return planner.plan(prefix_forest(1024, 0, tokens, 16)).model.narrow_seconds;
  };
  EXPECT_EQ(narrow_seconds(16), narrow_seconds(64));
  EXPECT_LT(narrow_seconds(64), narrow_seconds(80));
}
// Short items of few rows lie side by side there, one KV head after the other.
TEST(OnTheHopperKernel, HeadsOfShortItemsShareTiles) {
  const auto narrow_seconds = [](int heads, int kv_heads, int tokens) {
    const Planner planner(DeviceSpec::h200(), config_of(heads, kv_heads, 16, Strategy::unshared));
    return planner.plan(prefix_forest(1024, 0, tokens, 16)).model.narrow_seconds;
  };
  EXPECT_LT(narrow_seconds(32, 32, 16), 0.3 * narrow_seconds(32, 32, 64)) << "eight heads of one row";
  EXPECT_LT(narrow_seconds(32, 32, 48), 0.8 * narrow_seconds(32, 32, 64)) << "six tiles";
  EXPECT_LT(narrow_seconds(32, 8, 32), 0.6 * narrow_seconds(32, 8, 64)) << "two heads of four rows";
  EXPECT_EQ(narrow_seconds(32, 8, 40), narrow_seconds(32, 8, 64)) << "two tiles";
  EXPECT_EQ(narrow_seconds(64, 8, 32), narrow_seconds(64, 8, 64)) << "eight rows leave no room";
}

TEST_P(OnDevice, ADeepChainOfSmallNodesIsGivenBack) {
  // Two requests leave at each of 32 levels of two tokens.
  std::vector<std::int32_t> indptr{0}, pages, seq_lens;
  for (std::int32_t r = 0; r < 64; ++r) {
    for (std::int32_t level = 0; level <= r / 2; ++level) pages.push_back(level);
    for (std::int32_t own = 0; own < 4; ++own) pages.push_back(1000 + r * 4 + own);
    indptr.push_back(static_cast<std::int32_t>(pages.size()));
    seq_lens.push_back((indptr[r + 1] - indptr[r]) * 2);
  }
  const Forest forest = Forest::from_block_tables(BlockTables::csr(indptr, pages), seq_lens, 2);
  const AttentionConfig config = config_of(8, 8, 2);
  const Plan plan = Planner(GetParam(), config).plan(forest);
  plan.check(forest);
  EXPECT_LT(num_kept_shared(plan, forest), 8u) << "of 32 levels";
}

TEST(Choice, NineSmallLevelsWriteFewerPartialsThanTheyReadKv) {
  const int nodes[] = {1, 2, 4, 8, 16, 32, 64, 128, 1024}, tokens[] = {16, 16, 16, 16, 16, 16, 16, 16, 16};
  const Forest forest = tree_forest(nodes, tokens, 16);
  const Plan automatic = Planner(DeviceSpec::h200(), config_of(32, 8, 16)).plan(forest);
  const Plan all = Planner(DeviceSpec::h200(), config_of(32, 8, 16, Strategy::hydragen)).plan(forest);
  EXPECT_GT(all.model.partial_bytes, all.model.kv_bytes);
  EXPECT_LT(automatic.model.partial_bytes, automatic.model.kv_bytes);
  EXPECT_LT(automatic.model.seconds, 0.8 * all.model.seconds);
}

TEST_P(OnDevice, IdenticalRequestsShareOneItemWithoutPartials) {
  const Forest forest = prefix_forest(8, 512, 0, 16);
  ASSERT_EQ(forest.nodes().size(), 1u);
  const Plan plan = Planner(GetParam(), config_of(8, 8, 16)).plan(forest, PlanLimits{8, 1, 1, 0, 0, 0});
  plan.check(forest);
  ASSERT_EQ(plan.items.size(), 1u);
  EXPECT_EQ(plan.items[0].num_rows, 8);
  EXPECT_EQ(plan.items[0].partial_begin, -1);
  EXPECT_TRUE(plan.merges.empty());
}

TEST_P(OnDevice, RequestsThatEndInAGivenBackNodeTakeItsTokens) {
  // Two requests end where a third goes on.
  const std::int32_t indptr[] = {0, 1, 2, 12}, pages[] = {7, 7, 7, 1, 2, 3, 4, 5, 6, 8, 9, 10}, seq_lens[] = {3, 3, 39};
  const Forest forest = Forest::from_block_tables(BlockTables::csr(indptr, pages), seq_lens, 4);
  AttentionConfig config = config_of(4, 4, 4, Strategy::unshared);
  const Plan plan = Planner(GetParam(), config).plan(forest);
  plan.check(forest);
  EXPECT_EQ(num_kept_shared(plan, forest), 0u);
  for (const Plan::NodeChoice& choice : plan.choices) {
    if (choice.kept || choice.rows == 0) continue;
    EXPECT_GT(choice.seconds, 0) << "node " << choice.node;
  }
}

TEST(Choice, TheLaneOfMiddleSizesFollowsThePrices) {
  // 40 rows: one padded wide tile, or two narrow ones that read the tokens twice.
  const Forest forest = prefix_forest(10, 4096, 0, 16);
  DeviceSpec device = DeviceSpec::generic_cpu(2);
  device.wide.max_rows = 64;
  device.wide.row_granule = 64;
  device.narrow.max_rows = 32;
  const Plan wide = Planner(device, config_of(32, 8, 16)).plan(forest);
  EXPECT_GT(wide.phases[0].wide_end, 0);
  device.wide.flops /= 100;
  const Plan narrow = Planner(device, config_of(32, 8, 16)).plan(forest);
  EXPECT_EQ(narrow.phases[0].wide_end, 0);
  for (const Plan* plan : {&wide, &narrow}) plan->check(forest);
}

TEST(Choice, StrategiesShareAsNamed) {
  const int nodes[] = {1, 4, 16}, tokens[] = {64, 64, 64};
  const Forest forest = tree_forest(nodes, tokens, 16);
  auto plan_of = [&](Strategy strategy) {
    Plan plan = Planner(DeviceSpec::h200(), config_of(8, 8, 16, strategy)).plan(forest);
    plan.check(forest);
    EXPECT_EQ(plan.strategy, strategy);
    return plan;
  };
  const Plan unshared = plan_of(Strategy::unshared);
  EXPECT_EQ(unshared.phases.size(), 1u);
  EXPECT_EQ(num_kept_shared(unshared, forest), 0u);
  const Plan two_phase = plan_of(Strategy::two_phase);
  EXPECT_EQ(two_phase.phases.size(), 2u);
  EXPECT_EQ(num_kept_shared(two_phase, forest), 5u);
  const Plan hydragen = plan_of(Strategy::hydragen);
  EXPECT_EQ(hydragen.phases.size(), 3u);
  EXPECT_EQ(num_kept_shared(hydragen, forest), 5u);
  EXPECT_EQ(plan_of(Strategy::automatic).phases.size(), 1u);
}

}  // namespace
}  // namespace trunkline
