// Several query tokens per request: each sees its own end.
#include <gtest/gtest.h>

#include "plan/support.hpp"

namespace trunkline {
namespace {

using test::config_of;
using test::prefix_forest;
using test::separate_forest;

TEST(Causal, OnlyTheLastItemsNeedMasks) {
  const std::vector<std::int32_t> seq_lens{32768}, qo_lens{4};
  const Forest forest = separate_forest(seq_lens, 16, qo_lens);
  const Plan plan = Planner(DeviceSpec::h200(), config_of(8, 2, 16)).plan(forest);
  plan.check(forest);
  ASSERT_GT(plan.items.size(), 4u);
  for (const WorkItem& item : plan.items) {
    EXPECT_EQ(item.masked, plan.segments[item.segment_begin].token_end > 32765);
  }
}

TEST(Causal, OneQueryTokenNeedsNoMask) {
  const Forest forest = prefix_forest(16, 512, 100, 4);
  const Plan plan = Planner(DeviceSpec::h200(), config_of(32, 8, 4)).plan(forest);
  for (const WorkItem& item : plan.items) EXPECT_EQ(item.masked, 0);
}

TEST(Causal, EveryRowTileOfAPrefillEndsWhereItsRowsStopSeeing) {
  const std::vector<std::int32_t> seq_lens{1024}, qo_lens{1024};
  const Forest forest = separate_forest(seq_lens, 16, qo_lens);
  DeviceSpec device = DeviceSpec::generic_cpu(1);
  const Plan plan = Planner(device, config_of(4, 1, 16)).plan(forest);
  plan.check(forest);
  double operations = 0;
  for (const WorkItem& item : plan.items) {
    const Segment& segment = plan.segments[item.segment_begin];
    EXPECT_LE(segment.token_end, (item.row_begin + item.num_rows - 1) / 4 + 1);
    operations += double(item.num_rows) * (segment.token_end - segment.token_begin);
  }
  EXPECT_LT(operations, 0.6 * 4096 * 1024) << "about half of the square";
}

TEST(Causal, RowsOfASharedNodeSeeDifferentEnds) {
  // Identical requests whose last two tokens are new: the shared node holds the tokens that not every row sees.
  const std::vector<std::int32_t> qo_lens{2, 3};
  const Forest forest = prefix_forest(2, 64, 0, 16, qo_lens);
  ASSERT_EQ(forest.nodes().size(), 1u);
  for (const Strategy strategy : {Strategy::automatic, Strategy::unshared, Strategy::two_phase, Strategy::hydragen}) {
    const Plan plan = Planner(DeviceSpec::generic_cpu(4), config_of(4, 2, 16, strategy)).plan(forest);
    plan.check(forest);
  }
}

TEST(Causal, SharedNodesInsideAPrefillAreSeenOnlyByLaterRows) {
  // Two requests prefill everything from position 0 on: the first rows see a part of the shared node, and a tile of
  // first rows sees nothing of the nodes below.
  const std::vector<std::int32_t> qo_lens{96, 96};
  const Forest forest = prefix_forest(2, 64, 32, 16, qo_lens);
  for (const Strategy strategy : {Strategy::automatic, Strategy::unshared, Strategy::two_phase, Strategy::hydragen}) {
    DeviceSpec device = DeviceSpec::generic_cpu(3);
    device.wide.max_rows = 16;
    const Plan plan = Planner(device, config_of(4, 2, 16, strategy)).plan(forest);
    plan.check(forest);
  }
}

}  // namespace
}  // namespace trunkline
