// Forest as a value: copies, moves, equality, identity.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <utility>
#include <vector>

#include "forest/batch.hpp"

namespace trunkline::test {
namespace {

Batch some_batch() { return Batch::of(4, {{10, {1, 2, 3}}, {6, {1, 2}}, {0, {}}, {9, {1, 5, 6}}}); }

Deltas grown_by_one(RequestId request) {
  Deltas deltas;
  deltas.grow.push_back({request, 1, {}});
  return deltas;
}

TEST(ForestValue, DefaultHasNothing) {
  const Forest forest;
  EXPECT_EQ(forest.num_requests(), 0);
  EXPECT_EQ(forest.page_size(), 0);
  EXPECT_TRUE(forest.nodes().empty());
  EXPECT_TRUE(forest.table().entries.empty());
  EXPECT_TRUE(forest.table_changes().empty());
  EXPECT_EQ(forest.distinct_tokens(), 0);
  EXPECT_EQ(forest.share(), 1.0);
  EXPECT_TRUE(forest == Forest());
  EXPECT_FALSE(forest == Batch::of(4, {}).dense());
}

TEST(ForestValue, ACopyIsEqualWithAnIdentityOfItsOwn) {
  Forest forest = some_batch().dense();
  forest.advance(grown_by_one(0));
  Forest copy = forest;
  EXPECT_TRUE(copy == forest);
  EXPECT_NE(copy.uid(), forest.uid());
  EXPECT_TRUE(copy.table_changes().empty());

  // Both go on, apart from each other.
  Batch batch = some_batch(), other = some_batch();
  batch.apply(grown_by_one(0));
  other.apply(grown_by_one(0));
  copy.advance(grown_by_one(1));
  other.apply(grown_by_one(1));
  EXPECT_EQ(difference(copy, other), "");
  EXPECT_EQ(difference(forest, batch), "");
  EXPECT_FALSE(copy == forest);
}

TEST(ForestValue, ACopyOfATableWithFreeRows) {
  Batch batch = some_batch();
  Forest forest = batch.dense();
  Deltas deltas;
  deltas.leave.push_back(1);
  forest.advance(deltas);
  batch.apply(deltas);
  Forest copy;
  copy = forest;
  deltas.clear();
  deltas.join.push_back({7, 5, 1, {1, 2}});
  deltas.join.push_back({8, 3, 1, {9}});
  copy.advance(deltas);
  batch.apply(deltas);
  EXPECT_EQ(difference(copy, batch), "");
}

TEST(ForestValue, AMoveKeepsTheIdentityAndLeavesNothing) {
  Forest forest = some_batch().dense();
  const auto uid = forest.uid();
  Forest moved = std::move(forest);
  EXPECT_EQ(moved.uid(), uid);
  EXPECT_EQ(difference(moved, some_batch()), "");
  EXPECT_TRUE(forest == Forest());  // NOLINT(bugprone-use-after-move): documented
}

TEST(ForestValue, EveryBuiltForestHasAnotherUid) {
  const Forest a = some_batch().dense(), b = some_batch().dense();
  EXPECT_TRUE(a == b);
  EXPECT_NE(a.uid(), b.uid());
  EXPECT_NE(a.uid(), Forest().uid());
  EXPECT_EQ(a.version(), 0u);
}

TEST(ForestValue, EqualityLooksAtEverythingThatMatters) {
  const Forest forest = some_batch().dense();
  const auto differs = [&](auto change) {
    Batch batch = some_batch();
    change(batch);
    return !(batch.dense() == forest);
  };
  EXPECT_FALSE(differs([](Batch&) {}));
  EXPECT_TRUE(differs([](Batch& batch) { batch.page_size = 5; }));
  EXPECT_TRUE(differs([](Batch& batch) { batch.requests[1].id = 77; }));
  EXPECT_TRUE(differs([](Batch& batch) { batch.requests[1].qo_len = 2; }));
  EXPECT_TRUE(differs([](Batch& batch) { batch.requests[1].seq_len = 5; }));
  EXPECT_TRUE(differs([](Batch& batch) { batch.requests[3].pages[2] = 8; }));  // the same nodes, another page
  EXPECT_TRUE(differs([](Batch& batch) { std::swap(batch.requests[0], batch.requests[3]); }));
  EXPECT_TRUE(some_batch().dense(3, 7) == forest);  // the size of the pool is not part of the batch
}

TEST(ForestValue, ReadBySeveralThreads) {
  const Forest forest = some_batch().dense();
  std::vector<std::string> differences(4);
  std::vector<std::thread> threads;
  for (auto& result : differences) {
    threads.emplace_back([&] { result = difference(forest, some_batch()); });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_THAT(differences, testing::Each(""));
}

}  // namespace
}  // namespace trunkline::test
