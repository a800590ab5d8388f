// Plan::check finds every kind of defect, and says where.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "plan/support.hpp"
#include "trunkline/error.hpp"

namespace trunkline {
namespace {

using test::config_of;

// Four requests of two query tokens that share 512 of their 640 tokens, a fifth without tokens. The shared node is one
// narrow item (8 rows), the private parts are items of 2 rows, all of them partial; two workers, and limits that leave
// no room for splits.
class Check : public testing::Test {
 protected:
  Check() {
    std::vector<std::int32_t> indptr{0}, pages;
    for (std::int32_t r = 0; r < 4; ++r) {
      for (std::int32_t p = 0; p < 32; ++p) pages.push_back(p);
      for (std::int32_t p = 0; p < 8; ++p) pages.push_back(100 + r * 8 + p);
      indptr.push_back(static_cast<std::int32_t>(pages.size()));
    }
    indptr.push_back(indptr.back());
    const std::int32_t seq_lens[] = {640, 640, 640, 640, 0}, qo_lens[] = {2, 2, 2, 2, 1};
    forest = Forest::from_block_tables(BlockTables::csr(indptr, pages), seq_lens, 16, {qo_lens, {}, 0});
    plan = Planner(DeviceSpec::generic_cpu(2), config_of(1, 1, 16)).plan(forest, PlanLimits{9, 5, 5, 100, 100, 100});
    plan.check(forest);
    shared = item_of(8);
    own = item_of(2);
  }

  std::size_t item_of(std::int32_t num_rows) const {
    for (std::size_t i = 0; i < plan.items.size(); ++i) {
      if (plan.items[i].num_rows == num_rows) return i;
    }
    ADD_FAILURE() << "no item of " << num_rows << " rows";
    return 0;
  }
  Segment& segment_of(std::size_t item) { return plan.segments[plan.items[item].segment_begin]; }
  Merge& merge_of_sources(std::int32_t num_sources) {
    return *std::find_if(plan.merges.begin(), plan.merges.end(),
                         [=](const Merge& merge) { return merge.num_sources == num_sources; });
  }
  std::string named(const char* array, std::size_t index, const char* field) const {
    return std::string(array) + "[" + std::to_string(index) + "]" + field;
  }

  void expect_refused(const std::string& argument, const std::string& message) {
    try {
      plan.check(forest);
      FAIL() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::corrupt);
      EXPECT_EQ(error.argument(), argument);
      EXPECT_THAT(error.what(), testing::HasSubstr(message));
    }
  }

  Forest forest;
  Plan plan;
  std::size_t shared = 0, own = 0;
};

TEST_F(Check, ForgottenQueryToken) {
  plan.query_tokens.pop_back();
  expect_refused("query_tokens.size", "expected 9, got 8");
}
TEST_F(Check, WrongQueryRow) {
  plan.query_tokens[3].q_index = 0;
  expect_refused("query_tokens[3].q_index", "got 0");
}
TEST_F(Check, WrongRequest) {
  plan.query_tokens[8].request = 0;
  expect_refused("query_tokens[8].request", "expected 3, got 0");
}
TEST_F(Check, ARowThatSeesTheFuture) {
  plan.query_tokens[1].visible_end += 1;
  expect_refused("query_tokens[1].visible_end", "expected 639, got 640");
}
TEST_F(Check, ItemOutsideThePhases) {
  plan.phases[0].item_end -= 1;
  expect_refused("phases", "expected 5 items, got 4");
}
TEST_F(Check, PhasesThatOverlap) {
  plan.phases.push_back(plan.phases[0]);
  expect_refused("phases[1].item_begin", "expected 5, got 0");
}
TEST_F(Check, LaneOutsideItsPhase) {
  plan.phases[0].wide_end = 6;
  expect_refused("phases[0].wide_end", "within the phase's items [0, 5)");
}
TEST_F(Check, UnitNobodyTakes) {
  const std::size_t last = plan.schedule_offset(0, 1, 1) + 2;
  plan.schedule[last] -= 1;
  expect_refused(named("schedule", last, ""), "got 4");
}
TEST_F(Check, UnitTakenTwice) {
  const std::size_t second = plan.schedule_offset(0, 1, 0) + 1;
  plan.schedule[second] = plan.schedule[second + 1] + 1;
  expect_refused(named("schedule", second + 1, ""), "at least");
}
TEST_F(Check, ScheduleOfAnotherSize) {
  plan.schedule.push_back(0);
  expect_refused("schedule.size", "expected 12, got 13");
}
TEST_F(Check, RowsThatDoNotExist) {
  plan.items[own].row_begin = 9;
  expect_refused(named("items", own, ".row_begin"), "rows within [0, 9), got [9, 11)");
}
TEST_F(Check, SegmentsThatDoNotExist) {
  plan.items[own].num_segments = 100;
  expect_refused(named("items", own, ".segment_begin"), "segments within [0, 5)");
}
TEST_F(Check, PartialRowsThatDoNotExist) {
  plan.num_partial_rows -= 1;
  expect_refused(named("items", 4, ".partial_begin"), "partial rows within [0, 15)");
}
TEST_F(Check, EmptySegment) {
  segment_of(own).token_end = segment_of(own).token_begin;
  expect_refused(named("segments", plan.items[own].segment_begin, ".token_begin"), "below token_end 512, got 512");
}
TEST_F(Check, SegmentsOutOfOrder) {
  plan.items[own].segment_begin = static_cast<std::int32_t>(plan.segments.size());
  plan.items[own].num_segments = 2;
  const Segment& first = plan.segments[0];
  plan.segments.insert(plan.segments.end(), {{first.table_row, 576, 640}, {first.table_row, 512, 576}});
  expect_refused("segments[6].token_begin", "ascending segments of an item, got 512");
}
TEST_F(Check, TableRowNotInUse) {
  segment_of(own).table_row = 77;
  expect_refused(named("segments", plan.items[own].segment_begin, ".table_row"), "a table row in use, got 77");
}
TEST_F(Check, PagesOfAnotherRequest) {
  Segment& segment = segment_of(own);
  segment.table_row = segment.table_row == 0 ? 1 : 0;
  expect_refused(named("segments", plan.items[own].segment_begin, ".table_row"), "has at entry 32, got page 1");
}
TEST_F(Check, TokensBeyondTheRequest) {
  segment_of(own).token_end = 656;
  expect_refused(named("segments", plan.items[own].segment_begin, ".token_end"), "at most the 640 tokens");
}
TEST_F(Check, ForgottenMask) {
  plan.items[own].masked = 0;
  expect_refused(named("items", own, ".masked"), "sees only tokens before 639, got 0");
}
TEST_F(Check, TokensNotCovered) {
  segment_of(own).token_begin += 16;
  expect_refused("row " + std::to_string(plan.items[own].row_begin), "tokens [512, 528) not covered");
}
TEST_F(Check, LastTokenNotCovered) {
  segment_of(own).token_end -= 1;
  expect_refused("row " + std::to_string(plan.items[own].row_begin + 1), "tokens [639, 640) not covered");
}
TEST_F(Check, TokensCoveredTwice) {
  segment_of(own).token_begin -= 16;
  expect_refused("row " + std::to_string(plan.items[own].row_begin), "tokens [496, 512) covered twice");
}
TEST_F(Check, PartialsThatOverlap) {
  plan.items[own].partial_begin = plan.items[shared].partial_begin;
  expect_refused(named("items", std::max(own, shared), ".partial_begin"), "partial rows of its own");
}
TEST_F(Check, PartialThatNobodyWrites) {
  plan.num_partial_rows += 1;
  expect_refused("partial row 16", "written by an item, got by none");
}
TEST_F(Check, PartialNeverMerged) {
  merge_of_sources(2).num_sources = 1;
  expect_refused("partial row " + std::to_string(plan.merge_sources[merge_of_sources(1).source_begin + 1]),
                 "merged once, got never merged");
}
TEST_F(Check, PartialOfAnotherRow) {
  const Merge& merge = merge_of_sources(2);
  plan.merge_sources[merge.source_begin + 1] += 1;
  expect_refused(named("merge_sources", merge.source_begin + 1, ""), "of another row");
}
TEST_F(Check, PartialMergedTwice) {
  Merge again = merge_of_sources(2);
  plan.merges.push_back(again);
  expect_refused(named("merge_sources", again.source_begin, ""), "every partial merged once");
}
TEST_F(Check, PartialsOutOfOrder) {
  const Merge& merge = merge_of_sources(2);
  std::swap(plan.merge_sources[merge.source_begin], plan.merge_sources[merge.source_begin + 1]);
  expect_refused(named("merge_sources", merge.source_begin + 1, ""), "position 0 after 512");
}
TEST_F(Check, SourceThatDoesNotExist) {
  const Merge& merge = merge_of_sources(2);
  plan.merge_sources[merge.source_begin] = -5;
  expect_refused(named("merge_sources", merge.source_begin, ""), "a partial row within [0, 16), got -5");
}
TEST_F(Check, MergeOfTooManyRows) {
  merge_of_sources(2).num_rows = 17;
  expect_refused(named("merges", &merge_of_sources(2) - plan.merges.data(), ".num_rows"), "1 to 16, got 17");
}
TEST_F(Check, RowWithoutTokensForgotten) {
  std::erase_if(plan.merges, [](const Merge& merge) { return merge.num_sources == 0; });
  expect_refused("row 0", "finished once, by an item or a merge, got 0 times");
}
TEST_F(Check, RowFinishedTwice) {
  plan.merges.push_back(merge_of_sources(0));
  expect_refused("row 0", "got 2 times");
}
TEST_F(Check, DirectRowsThatAreMergedToo) {
  // A batch whose only item is direct.
  forest = test::separate_forest(std::vector<std::int32_t>{20}, 16);
  plan = Planner(DeviceSpec::generic_cpu(1), config_of(1, 1, 16)).plan(forest);
  plan.check(forest);
  plan.merges.push_back({0, 1, 0, 0});
  expect_refused("row 0", "got 2 times");
}
TEST_F(Check, APlanOfAnotherForest) {
  forest = test::prefix_forest(5, 512, 128, 16);
  EXPECT_THROW(plan.check(forest), Error);
}

}  // namespace
}  // namespace trunkline
