// Plans of named batches.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "plan/support.hpp"
#include "trunkline/error.hpp"

namespace trunkline {
namespace {

using test::config_of;
using test::prefix_forest;
using test::separate_forest;
using testing::HasSubstr;

std::vector<std::int32_t> bytes_of(const Plan& plan) {
  std::vector<std::int32_t> all;
  auto append = [&all](const auto& entries) {
    const auto* words = reinterpret_cast<const std::int32_t*>(entries.data());
    all.push_back(static_cast<std::int32_t>(entries.size()));
    all.insert(all.end(), words, words + entries.size() * sizeof(entries[0]) / sizeof(std::int32_t));
  };
  append(plan.query_tokens), append(plan.items), append(plan.segments), append(plan.merges);
  append(plan.merge_sources), append(plan.phases), append(plan.schedule);
  return all;
}

TEST(Planner, TheSameInputGivesTheSamePlan) {
  const Forest forest = prefix_forest(20, 1024, 100, 4);
  const Planner planner(DeviceSpec::h200(), config_of(32, 8, 4));
  const Plan first = planner.plan(forest), second = planner.plan(forest);
  EXPECT_EQ(bytes_of(first), bytes_of(second));
  EXPECT_EQ(first.model.seconds, second.model.seconds);
}

TEST(Planner, APlansMemoryCarriesNothingOver) {
  const Planner planner(DeviceSpec::h200(), config_of(32, 8, 16));
  const Forest large = prefix_forest(64, 4096, 256, 16), small = separate_forest(std::vector<int>{100, 0, 7}, 16);
  Plan plan;
  planner.plan_into(plan, large);
  planner.plan_into(plan, small);
  EXPECT_EQ(bytes_of(plan), bytes_of(planner.plan(small)));
  Plan copy = plan;
  planner.plan_into(copy, large);
  copy.check(large);
  plan.check(small);
  plan = std::move(copy);
  plan.check(large);
}

TEST(Planner, QueryTokensFollowTheForestsOrderAndTheCallersRows) {
  // Requests 0 and 2 share their page, so the forest puts them together.
  const std::int32_t indptr[] = {0, 1, 2, 3}, pages[] = {5, 9, 5}, seq_lens[] = {4, 3, 4}, qo_lens[] = {2, 3, 1};
  const Forest forest = Forest::from_block_tables(BlockTables::csr(indptr, pages), seq_lens, 4, {qo_lens, {}, 0});
  const Plan plan = Planner(DeviceSpec::generic_cpu(1), config_of(2, 1, 4)).plan(forest);
  plan.check(forest);
  std::vector<std::array<std::int32_t, 4>> tokens;
  for (const QueryToken& t : plan.query_tokens) {
    tokens.push_back({t.q_index, t.request, t.visible_begin, t.visible_end});
  }
  EXPECT_THAT(tokens, testing::ElementsAre(std::array{0, 0, 0, 3}, std::array{1, 0, 0, 4}, std::array{5, 2, 0, 4},
                                           std::array{2, 1, 0, 1}, std::array{3, 1, 0, 2}, std::array{4, 1, 0, 3}));
}

TEST(Planner, NoRequests) {
  for (const Strategy strategy : {Strategy::automatic, Strategy::unshared, Strategy::two_phase, Strategy::hydragen}) {
    const Forest forest;
    const Plan plan = Planner(DeviceSpec::h200(), config_of(8, 8, 16, strategy)).plan(forest);
    plan.check(forest);
    EXPECT_TRUE(plan.items.empty() && plan.merges.empty() && plan.phases.empty() && plan.schedule.empty());
    EXPECT_EQ(plan.model.seconds, DeviceSpec::h200().launch_seconds);
  }
}

TEST(Planner, RowsThatSeeNothingAreMergesOfNothing) {
  const std::vector<std::int32_t> seq_lens(7, 0);
  const Forest forest = separate_forest(seq_lens, 16);
  const Plan plan = Planner(DeviceSpec::h200(), config_of(32, 8, 16)).plan(forest);
  plan.check(forest);
  EXPECT_TRUE(plan.items.empty());
  ASSERT_EQ(plan.merges.size(), 2u) << "28 rows";
  EXPECT_EQ(plan.merges[0].num_rows, 16);
  EXPECT_EQ(plan.merges[1].num_rows, 12);
  EXPECT_EQ(plan.merges[0].num_sources + plan.merges[1].num_sources, 0);
}

TEST(Planner, RequestsWithoutQueryTokensHaveNoWork) {
  const std::vector<std::int32_t> seq_lens{100, 200, 300}, qo_lens{0, 1, 0};
  const Forest forest = separate_forest(seq_lens, 16, qo_lens);
  const Plan plan = Planner(DeviceSpec::generic_cpu(1), config_of(4, 4, 16)).plan(forest);
  plan.check(forest);
  ASSERT_EQ(plan.items.size(), 1u);
  EXPECT_EQ(plan.segments[0].token_end, 200);
}

TEST(Planner, OneTokenOfOneRequest) {
  const Forest forest = separate_forest(std::vector<std::int32_t>{1}, 16);
  const Plan plan = Planner(DeviceSpec::h200(), config_of(1, 1, 16)).plan(forest);
  plan.check(forest);
  ASSERT_EQ(plan.items.size(), 1u);
  EXPECT_EQ(plan.items[0].partial_begin, -1);
  EXPECT_EQ(plan.num_partial_rows, 0);
}

TEST(Planner, ManyHeadsPerKvHeadAreCutIntoTilesOfTheLane) {
  const Forest forest = separate_forest(std::vector<std::int32_t>{64}, 16);
  DeviceSpec device = DeviceSpec::generic_cpu(2);
  device.wide.max_rows = 32;
  const Plan plan = Planner(device, config_of(300, 1, 16)).plan(forest);
  plan.check(forest);
  std::int32_t rows = 0;
  for (const WorkItem& item : plan.items) {
    EXPECT_LE(item.num_rows, 32);
    rows += item.num_rows;
  }
  EXPECT_EQ(rows, 300);
}

TEST(Planner, ItemsOfAFewRowsAreNarrowAndOthersWide) {
  const Forest forest = prefix_forest(40, 2048, 64, 16);
  const DeviceSpec device = DeviceSpec::h200();
  const Plan plan = Planner(device, config_of(32, 8, 16)).plan(forest);
  plan.check(forest);
  ASSERT_EQ(plan.phases.size(), 1u);
  EXPECT_GT(plan.phases[0].wide_end, 0);
  for (std::size_t i = 0; i < plan.items.size(); ++i) {
    const bool wide = static_cast<std::int32_t>(i) < plan.phases[0].wide_end;
    EXPECT_EQ(wide, plan.items[i].num_rows > device.narrow.max_rows) << "item " << i;
    EXPECT_LE(plan.items[i].num_rows, 2 * device.wide.max_rows);
  }
}

std::int32_t most_rows(const Plan& plan) {
  std::int32_t most = 0;
  for (const WorkItem& item : plan.items) most = std::max(most, item.num_rows);
  return most;
}

TEST(Planner, WorkersTakeManyRowsInPairs) {
  struct Case {
    int requests;
    bool paired;
    std::int32_t most_rows;
  };
  const DeviceSpec device = DeviceSpec::h200();
  for (const Case& c : {Case{32, false, 128}, Case{33, false, 128}, Case{40, true, 160}, Case{64, true, 256},
                        Case{65, true, 256}, Case{128, true, 256}}) {
    const Forest forest = prefix_forest(c.requests, 8192, 64, 16);
    const Plan plan = Planner(device, config_of(32, 8, 16)).plan(forest);
    plan.check(forest);
    EXPECT_EQ(plan.paired, c.paired) << c.requests;
    EXPECT_EQ(most_rows(plan), c.most_rows) << c.requests;
  }
}

TEST(Planner, WithoutPairsNobodyTakesMoreThanALane) {
  const Forest forest = prefix_forest(64, 8192, 64, 16);
  const DeviceSpec h200 = DeviceSpec::h200();
  DeviceSpec odd = h200, cannot = h200, slow = h200;
  odd.num_workers = 131;
  cannot.paired_flops = 0;
  slow.paired_flops = 0.4 * h200.wide.flops;
  for (const DeviceSpec& device : {odd, cannot, slow}) {
    const Plan plan = Planner(device, config_of(32, 8, 16)).plan(forest);
    plan.check(forest);
    EXPECT_FALSE(plan.paired);
    EXPECT_EQ(most_rows(plan), 128);
  }
}

TEST(Planner, MergesSpanRequestsWhosePartialsLieSideBySide) {
  const Forest forest = prefix_forest(32, 4096, 64, 16);
  const Plan plan = Planner(DeviceSpec::generic_cpu(2), config_of(8, 8, 16)).plan(forest);
  plan.check(forest);
  EXPECT_EQ(plan.merges.size(), 2u) << "32 rows, each with a shared and an own partial";
}

TEST(Planner, SplitBoundariesAreWholePages) {
  const Forest forest = separate_forest(std::vector<std::int32_t>{32768}, 32);
  const Plan plan = Planner(DeviceSpec::h200(), config_of(32, 8, 32)).plan(forest);
  plan.check(forest);
  EXPECT_GT(plan.segments.size(), 8u);
  for (const Segment& segment : plan.segments) EXPECT_EQ(segment.token_begin % 32, 0);
}

TEST(Planner, AnotherPageSizeIsRefusedAndLeavesAnEmptyPlan) {
  const Planner planner(DeviceSpec::h200(), config_of(8, 8, 16));
  Plan plan = planner.plan(prefix_forest(2, 64, 64, 16));
  try {
    planner.plan_into(plan, prefix_forest(2, 64, 64, 32));
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
    EXPECT_STREQ(error.what(), "invalid_argument: forest.page_size: expected 16, got 32");
  }
  EXPECT_TRUE(plan.items.empty() && plan.query_tokens.empty());
}

TEST(Planner, MoreRowsThanAnIndexCanNameAreRefused) {
  const std::vector<std::int32_t> seq_lens(1, 0), qo_lens(1, 2'000'000'000);
  const Planner planner(DeviceSpec::generic_cpu(1), config_of(8, 1, 16));
  try {
    (void)planner.plan(separate_forest(seq_lens, 16, qo_lens));
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::capacity_exceeded);
    EXPECT_THAT(error.what(), HasSubstr("forest.num_query_tokens: expected at most 268435455 with 8 query heads"));
  }
}

TEST(Planner, BadFactsAreRefusedByTheirField) {
  DeviceSpec device = DeviceSpec::h200();
  device.read_bandwidth = 0;
  try {
    const Planner planner(device, config_of(8, 8, 16));
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.argument(), "device.read_bandwidth");
  }
}

}  // namespace
}  // namespace trunkline
