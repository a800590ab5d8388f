// Who shares which pages, and when a page is copied.
#include "tree/fake_engine.hpp"

namespace trunkline {
namespace {

constexpr int page_size = 4;

class Sharing : public ::testing::Test {
 protected:
  void TearDown() override { engine.verify(); }

  std::int64_t num_nodes() const { return engine.tree.stats().num_nodes; }

  FakeEngine engine{100, page_size};
};

TEST_F(Sharing, IdenticalPromptsShareEveryPageTheLastPartlyFilledOneIncluded) {
  const RequestId a = engine.serve(range(0, 10));
  const RequestId b = engine.serve(range(0, 10));
  EXPECT_EQ(engine.table(a), engine.table(b));
  EXPECT_EQ(engine.pool.num_used(), 3);
  EXPECT_EQ(engine.tree.stats().hit_tokens, 10);
  EXPECT_EQ(engine.pool.ref_count(engine.table(a).back()), 3);  // the tree and two requests
}

TEST_F(Sharing, NothingMatchesBeforeItIsCommitted) {
  const RequestId a = engine.insert(range(0, 10));
  EXPECT_EQ(engine.tree.match_length(range(0, 10)), 0);
  engine.commit(a, 6);
  EXPECT_EQ(engine.tree.match_length(range(0, 10)), 6);
  engine.commit(a);
  EXPECT_EQ(engine.tree.match_length(range(0, 10)), 10);
}

TEST_F(Sharing, IdenticalPromptsInFlightTogetherAreOneAfterCommit) {
  const RequestId a = engine.insert(range(0, 10));
  const RequestId b = engine.insert(range(0, 10));
  EXPECT_EQ(engine.pool.num_used(), 6);
  engine.commit(a);
  EXPECT_TRUE(engine.last_commit.pages.empty());
  engine.commit(b);
  EXPECT_EQ(engine.last_commit.first_page, 0);
  EXPECT_EQ(engine.last_commit.pages.size(), 3u);
  EXPECT_EQ(engine.table(a), engine.table(b));
  EXPECT_EQ(engine.pool.num_used(), 3);
  EXPECT_EQ(engine.tree.stats().duplicate_pages, 3);
  EXPECT_EQ(num_nodes(), 1);
}

TEST_F(Sharing, TokensAreMatchedByTheNamesThatTheirCommitGaveThem) {
  const RequestId a = engine.tree.insert(range(0, 6)).request;
  engine.tree.append(a, Tokens{0, 0, 0});
  engine.tree.commit(a, 8, Tokens{6, 7});  // the third is still to be named
  EXPECT_EQ(engine.tree.match_length(range(0, 10)), 8);
  engine.tree.commit(a, 9, Tokens{8});
  EXPECT_EQ(engine.tree.match_length(range(0, 10)), 9);
  const RequestId b = engine.tree.insert(range(0, 7)).request;
  engine.tree.append(b, Tokens{0});
  EXPECT_EQ(engine.tree.commit(b, 8, Tokens{7}).pages.size(), 1u);  // what it turned out to be was cached
  EXPECT_EQ(engine.table(b), first(engine.table(a), 2));
  engine.tree.remove(a);
  engine.tree.remove(b);
}

TEST_F(Sharing, CommitMovesOnlyThePagesThatOthersCommittedMeanwhile) {
  const RequestId a = engine.insert(range(0, 8));
  const RequestId b = engine.insert(range(0, 14));
  engine.commit(a);
  const Tokens before = engine.table(b);
  engine.commit(b);
  EXPECT_EQ(engine.last_commit.pages.size(), 2u);
  EXPECT_EQ(first(engine.table(b), 2), engine.table(a));
  EXPECT_EQ(engine.table(b)[2], before[2]);
  EXPECT_EQ(engine.table(b)[3], before[3]);
}

TEST_F(Sharing, CommitKeepsAPageThatHoldsLaterTokensOfTheRequest) {
  const RequestId a = engine.insert(range(0, 6));
  const RequestId b = engine.insert(range(0, 7));
  engine.commit(a);
  const Tokens before = engine.table(b);
  engine.commit(b);
  EXPECT_EQ(engine.table(b)[0], engine.table(a)[0]);
  EXPECT_EQ(engine.table(b)[1], before[1]);  // token 6 is there; in a's page nobody wrote it
  EXPECT_NE(engine.table(b)[1], engine.table(a)[1]);
}

TEST_F(Sharing, TwoRequestsThatCommitTheSamePromptInSmallStepsEndOnTheSamePages) {
  const RequestId a = engine.insert(range(0, 11));
  const RequestId b = engine.insert(range(0, 11));
  for (std::int32_t n = 1; n <= 11; ++n) {
    engine.commit(n % 3 == 0 ? a : b, n);  // in turn ahead of each other
    engine.commit(n % 3 == 0 ? b : a, n);
    engine.verify();
  }
  EXPECT_EQ(engine.table(a), engine.table(b));
}

TEST_F(Sharing, ARequestAloneCommittingInSmallStepsIsOneNode) {
  const RequestId a = engine.insert(range(0, 9));
  for (std::int32_t n = 1; n <= 9; ++n) {
    engine.commit(a, n);
  }
  for (std::int32_t t = 9; t < 20; ++t) {
    engine.decode(a, {t});
  }
  EXPECT_EQ(num_nodes(), 1);
  EXPECT_EQ(engine.pool.num_used(), 5);
}

TEST_F(Sharing, APromptThatIsAnothersPrefix) {
  const RequestId full = engine.serve(range(0, 10));
  const RequestId part = engine.serve(range(0, 6));
  EXPECT_EQ(engine.table(part), first(engine.table(full), 2));
  EXPECT_EQ(engine.pool.num_used(), 3);
  EXPECT_EQ(num_nodes(), 2);
  // The rest of its last page is the longer one's: growing otherwise takes a copy of the two tokens.
  engine.decode(part, {77});
  ASSERT_TRUE(engine.last_copy);
  EXPECT_EQ(engine.last_copy->src, engine.table(full)[1]);
  EXPECT_EQ(engine.last_copy->num_tokens, 2);
  EXPECT_EQ(engine.table(part)[0], engine.table(full)[0]);
}

TEST_F(Sharing, APrefixRequestThatGrowsLikeTheLongerOneReturnsToItsPages) {
  const RequestId full = engine.serve(range(0, 10));
  const RequestId part = engine.serve(range(0, 6));
  for (std::int32_t t = 6; t < 10; ++t) {
    engine.decode(part, {t});
    engine.verify();
  }
  EXPECT_EQ(engine.table(part), engine.table(full));
  EXPECT_EQ(engine.pool.num_used(), 3);
}

TEST_F(Sharing, AnotherOnesContinuationGrowsItsLastPageInPlace) {
  engine.remove(engine.serve(range(0, 6)));
  const RequestId longer = engine.serve(range(0, 12));
  EXPECT_FALSE(engine.last_copy);
  EXPECT_EQ(engine.pool.num_used(), 3);
  EXPECT_EQ(engine.tree.stats().hit_tokens, 6);
  EXPECT_EQ(engine.tree.num_committed(longer), 12);
}

TEST_F(Sharing, OneTokenDivergence) {
  const RequestId a = engine.serve(range(0, 11) + Tokens{50});
  const RequestId b = engine.serve(range(0, 11) + Tokens{60});
  ASSERT_TRUE(engine.last_copy);
  EXPECT_EQ(*engine.last_copy, (PageCopy{engine.table(a)[2], engine.table(b)[2], 3}));
  EXPECT_EQ(first(engine.table(a), 2), first(engine.table(b), 2));
  EXPECT_EQ(engine.pool.num_used(), 4);
  EXPECT_EQ(num_nodes(), 3);
}

TEST_F(Sharing, DivergenceInTheFirstToken) {
  engine.serve(Tokens{1} + range(0, 5));
  engine.serve(Tokens{2} + range(0, 5));
  EXPECT_EQ(engine.tree.stats().hit_tokens, 0);
  EXPECT_EQ(engine.pool.num_used(), 4);
  EXPECT_EQ(num_nodes(), 2);
}

TEST_F(Sharing, DivergenceInMidPageCopiesTheCommonTokensOfThatPage) {
  const RequestId a = engine.serve(range(0, 16));
  const RequestId b = engine.serve(range(0, 6) + range(100, 110));
  ASSERT_TRUE(engine.last_copy);
  EXPECT_EQ(*engine.last_copy, (PageCopy{engine.table(a)[1], engine.table(b)[1], 2}));
  EXPECT_EQ(engine.pool.num_used(), 4 + 3);
  EXPECT_EQ(engine.tree.match_prefix(range(0, 6) + Tokens{100}).pages, first(engine.table(b), 2));
  EXPECT_EQ(engine.tree.match_prefix(range(0, 7)).pages, first(engine.table(a), 2));
}

TEST_F(Sharing, DivergenceAtAPageBorderCopiesNothing) {
  const RequestId a = engine.serve(range(0, 16));
  const RequestId b = engine.serve(range(0, 8) + range(100, 108));
  EXPECT_FALSE(engine.last_copy);
  EXPECT_EQ(first(engine.table(a), 2), first(engine.table(b), 2));
  EXPECT_EQ(engine.pool.num_used(), 6);
}

TEST_F(Sharing, ThreeWaysOutOfOnePage) {
  const RequestId a = engine.serve(range(0, 8));
  const RequestId b = engine.serve(range(0, 6) + Tokens{100, 101});
  const RequestId c = engine.serve(range(0, 7) + Tokens{200});
  const RequestId d = engine.serve(range(0, 6) + Tokens{100, 201});
  EXPECT_EQ(engine.last_copy->src, engine.table(b)[1]);  // b's copy has one token more in common
  EXPECT_EQ(engine.last_copy->num_tokens, 3);
  EXPECT_EQ(engine.pool.num_used(), 5);
  for (const RequestId r : {b, c, d}) {
    EXPECT_EQ(engine.table(r)[0], engine.table(a)[0]);
  }
}

TEST_F(Sharing, APartlyFilledPageSharedThenGrownStaysWithTheFirstToGrow) {
  const RequestId a = engine.serve(range(0, 6));
  const RequestId b = engine.serve(range(0, 6));
  const RequestId c = engine.serve(range(0, 6));
  const std::int32_t common = engine.table(a)[1];
  engine.append(b, {10});
  EXPECT_FALSE(engine.last_copy);
  EXPECT_EQ(engine.table(b)[1], common);
  engine.append(a, {11});
  EXPECT_EQ(engine.last_copy, (PageCopy{common, engine.table(a)[1], 2}));
  engine.append(c, {12});
  EXPECT_EQ(engine.last_copy, (PageCopy{common, engine.table(c)[1], 2}));
  engine.verify();
  engine.commit(a);
  engine.commit(b);
  engine.commit(c);
  EXPECT_EQ(engine.pool.num_used(), 4);
}

TEST_F(Sharing, GrownBySameTokensIsOneAgainAfterCommit) {
  const RequestId a = engine.serve(range(0, 6));
  const RequestId b = engine.serve(range(0, 6));
  engine.append(a, {10});
  engine.append(b, {10});
  EXPECT_EQ(engine.pool.num_used(), 3);
  engine.commit(b);  // the copy becomes the canonical page
  engine.commit(a);
  EXPECT_EQ(engine.last_commit.first_page, 1);
  EXPECT_EQ(engine.table(a), engine.table(b));
  engine.verify();
  engine.decode(a, {11});
  EXPECT_FALSE(engine.last_copy);
}

TEST_F(Sharing, UncommittedTokensInASharedPageAreNeitherSeenNorOverwritten) {
  engine.remove(engine.serve(range(0, 6)));
  const RequestId a = engine.insert(range(0, 8));  // grows in place, not committed
  EXPECT_FALSE(engine.last_copy);
  EXPECT_EQ(engine.tree.match_length(range(0, 8)), 6);
  const RequestId b = engine.insert(range(0, 8));
  ASSERT_TRUE(engine.last_copy);
  EXPECT_EQ(*engine.last_copy, (PageCopy{engine.table(a)[1], engine.table(b)[1], 2}));
  engine.verify();
  engine.commit(b);
  engine.verify();
  engine.commit(a);
  EXPECT_EQ(engine.table(a), engine.table(b));
}

TEST_F(Sharing, ARequestRemovedBeforeItCommitsGivesTheRestOfTheSharedPageBack) {
  const RequestId a = engine.serve(range(0, 6));
  const RequestId b = engine.insert(range(0, 8));
  EXPECT_FALSE(engine.last_copy);
  engine.remove(b);
  EXPECT_EQ(engine.tree.match_length(range(0, 8)), 6);
  engine.append(a, {50});
  EXPECT_FALSE(engine.last_copy);
}

TEST_F(Sharing, AReaderOfAPageDoesNotStopItsWriter) {
  const RequestId a = engine.serve(range(0, 6));
  engine.append(a, {6});
  const RequestId reader = engine.serve(range(0, 6));
  EXPECT_EQ(engine.table(reader), engine.table(a));
  engine.append(a, {7});
  EXPECT_FALSE(engine.last_copy);
  engine.remove(reader);
  engine.append(a, {8});
  EXPECT_EQ(engine.pool.num_used(), 3);
}

TEST_F(Sharing, ForkSharesEverythingUntilSomebodyGrows) {
  const RequestId a = engine.serve(range(0, 10));
  const RequestId b = engine.fork(a);
  const RequestId c = engine.fork(b);
  EXPECT_EQ(engine.table(a), engine.table(c));
  EXPECT_EQ(engine.pool.num_used(), 3);
  EXPECT_EQ(engine.tree.stats().requests_forked, 2);
  engine.decode(c, {70});
  EXPECT_FALSE(engine.last_copy);
  engine.decode(a, {71});
  EXPECT_EQ(engine.last_copy->num_tokens, 2);
  engine.decode(b, {71});  // the same token as a: one page for both after commit
  EXPECT_EQ(engine.table(a), engine.table(b));
  EXPECT_EQ(engine.pool.num_used(), 4);
}

TEST_F(Sharing, TheSourceOfAForkMayGo) {
  const RequestId a = engine.serve(range(0, 10));
  const RequestId b = engine.fork(a);
  engine.remove(a);
  engine.verify();
  engine.decode(b, {70, 71, 72});
  EXPECT_FALSE(engine.last_copy);
}

TEST_F(Sharing, TheLastTokenIsLeftToComputeWhenAskedFor) {
  const RequestId a = engine.serve(range(0, 10));
  const RequestId b = engine.insert(range(0, 10), 9);
  EXPECT_EQ(engine.tree.num_committed(b), 9);
  EXPECT_EQ(*engine.last_copy, (PageCopy{engine.table(a)[2], engine.table(b)[2], 1}));
  engine.commit(b);
  EXPECT_EQ(engine.table(b), engine.table(a));
  EXPECT_EQ(engine.pool.num_used(), 3);
  // At a page border there is nothing to copy.
  const RequestId c = engine.insert(range(0, 9), 8);
  EXPECT_FALSE(engine.last_copy);
  engine.commit(c);
  EXPECT_EQ(engine.table(c), engine.table(a));
}

TEST_F(Sharing, AnEmptyRequestIsLegal) {
  const RequestId a = engine.serve({});
  EXPECT_TRUE(engine.table(a).empty());
  EXPECT_EQ(engine.pool.num_used(), 0);
  engine.append(a, {});
  engine.decode(a, range(0, 5));
  EXPECT_EQ(engine.table(a).size(), 2u);
  const RequestId b = engine.fork(engine.serve({}));
  engine.decode(b, range(0, 5));
  EXPECT_EQ(engine.table(b), engine.table(a));
}

TEST_F(Sharing, AppendingNothingToASharedPageChangesNothing) {
  const RequestId a = engine.serve(range(0, 6));
  const RequestId b = engine.serve(range(0, 6));
  engine.append(b, {6});
  engine.append(a, {});
  EXPECT_FALSE(engine.last_copy);
  EXPECT_EQ(engine.table(a), engine.table(b));
}

TEST_F(Sharing, PageSizeOneHasNoPartlyFilledPages) {
  FakeEngine single(40, 1);
  single.serve(range(0, 10));
  const RequestId b = single.serve(range(0, 5) + range(50, 55));
  EXPECT_FALSE(single.last_copy);
  single.decode(single.fork(b), {1, 2, 3});
  EXPECT_FALSE(single.last_copy);
  EXPECT_EQ(single.pool.num_used(), 18);
  single.verify();
}

TEST_F(Sharing, StatisticsCountTokensAndSlots) {
  engine.serve(range(0, 10));
  engine.serve(range(0, 10) + range(20, 25));
  const PrefixTreeStats stats = engine.tree.stats();
  EXPECT_EQ(stats.requests_inserted, 2);
  EXPECT_EQ(stats.prompt_tokens, 25);
  EXPECT_EQ(stats.hit_tokens, 10);
  EXPECT_DOUBLE_EQ(stats.hit_rate(), 10.0 / 25);
  EXPECT_EQ(stats.total_slots, 16);
  EXPECT_EQ(stats.filled_slots, 15);
  EXPECT_DOUBLE_EQ(stats.fragmentation(), 1.0 / 16);
  EXPECT_EQ(stats.num_requests, 2);
  EXPECT_EQ(PrefixTreeStats{}.hit_rate(), 0.0);
  EXPECT_EQ(PrefixTreeStats{}.fragmentation(), 0.0);
}

}  // namespace
}  // namespace trunkline
