// The harness itself: its batches are what they say, and it notices what it is there to notice.
#include "grids/harness.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

namespace trunkline::grids {
namespace {

using testing::ElementsAre;

TEST(GridBatchShort, PagesAreSharedWhereAllTheirTokensAre) {
  const Batch batch = shared_prefix(2, 5, 4, 2);  // tokens 0 to 3 are whole shared pages, the page of 4 and 5 is not
  EXPECT_THAT(batch.tables, ElementsAre(ElementsAre(0, 1, 2, 3, 4), ElementsAre(0, 1, 5, 6, 7)));
  EXPECT_THAT(batch.seq_lens, ElementsAre(9, 9));
  EXPECT_EQ(batch.num_pages, 8);
}

TEST(GridBatchShort, PartlyFilledPagesAreSharedByIdenticalRequests) {
  const Batch batch = shared_prefix(2, 5, 0, 2);
  EXPECT_THAT(batch.tables, ElementsAre(ElementsAre(0, 1, 2), ElementsAre(0, 1, 2)));
}

TEST(GridBatchShort, UniformTreeSpreadsNodesEvenly) {
  const Batch batch = uniform_tree({1, 2, 4}, {2, 2, 2}, 2);
  EXPECT_THAT(batch.tables,
              ElementsAre(ElementsAre(0, 1, 2), ElementsAre(0, 1, 3), ElementsAre(0, 4, 5), ElementsAre(0, 4, 6)));
}

TEST(GridBatchShort, RequestWithoutTokens) {
  const Batch batch = batch_of({{-1, 3}}, {-1, 0}, 2);
  EXPECT_THAT(batch.seq_lens, ElementsAre(0, 3));
  EXPECT_TRUE(batch.tables[0].empty());
}

TEST(GridHarnessShort, ReportsAWorstErrorThatIsNotNothing) {
  // bf16 results are rounded: some error there must be, or nothing was compared.
  const double worst = expect_exact(shared_prefix(4, 20, 9, 4), {2, 2, 64, DType::bfloat16, DType::bfloat16});
  EXPECT_GT(worst, 0.1);
}

TEST(GridHarnessShort, NoticesAForestThatReadsTheWrongTokens) {
  const Batch batch = shared_prefix(3, 16, 8, 8);
  Options options;
  options.strategies = {Strategy::automatic};
  static const Problem problem(batch, {1, 1, 64, DType::float32, DType::float32}, options);
  Batch shorter = batch;
  for (std::int32_t& seq_len : shorter.seq_lens) --seq_len;
  shorter.tables.clear();
  static Forest wrong = Forest::from_block_tables(problem.tables(), shorter.seq_lens, 8);
  EXPECT_NONFATAL_FAILURE(
      {
        testing::TestPartResultArray first;  // one failure is enough to see
        {
          testing::ScopedFakeTestPartResultReporter reporter(
              testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &first);
          problem.expect_exact(wrong);
        }
        ADD_FAILURE() << (first.size() > 0 ? first.GetTestPartResult(0).message() : "nothing");
      },
      "exactly");
}

}  // namespace
}  // namespace trunkline::grids
