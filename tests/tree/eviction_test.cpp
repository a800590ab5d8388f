// What stays cached, what goes first, and what happens when pages run out.
#include "tree/fake_engine.hpp"

namespace trunkline {
namespace {

constexpr int page_size = 4;

/// Eight tokens, two pages, that begin like no other's.
Tokens prompt(std::int32_t i) { return range(100 * i, 100 * i + 8); }

class Eviction : public ::testing::Test {
 protected:
  void TearDown() override { engine.verify(); }

  std::int32_t cached(const Tokens& tokens) const { return engine.tree.match_length(tokens); }
  void cache(const Tokens& tokens) { engine.remove(engine.serve(tokens)); }

  FakeEngine engine{8, page_size};
};

TEST_F(Eviction, APrefixOutlivesItsLastRequest) {
  cache(prompt(1));
  EXPECT_EQ(engine.tree.stats().num_requests, 0);
  EXPECT_EQ(engine.tree.stats().pages_cached, 2);
  EXPECT_EQ(engine.tree.stats().pages_in_use, 0);
  engine.serve(prompt(1));
  EXPECT_EQ(engine.tree.stats().hit_tokens, 8);
}

TEST_F(Eviction, UncommittedPagesGoWithTheirRequest) {
  const RequestId a = engine.insert(range(0, 16));
  engine.commit(a, 6);
  engine.remove(a);
  EXPECT_EQ(engine.pool.num_used(), 2);
  EXPECT_EQ(cached(range(0, 16)), 6);
}

TEST_F(Eviction, LeastRecentlyUsedGoesFirst) {
  for (const std::int32_t i : {1, 2, 3, 4}) {
    cache(prompt(i));
  }
  cache(prompt(1));
  cache(prompt(3));
  for (const std::int32_t i : {2, 4, 1, 3}) {
    EXPECT_EQ(cached(prompt(i)), 8);
    EXPECT_EQ(engine.tree.evict(2), 2);
    EXPECT_EQ(cached(prompt(i)), 0);
    engine.verify();
  }
  EXPECT_EQ(engine.tree.evict(1), 0);
}

TEST_F(Eviction, ARequestCountsAsUseUntilItLeaves) {
  const RequestId first_in = engine.serve(prompt(1));
  cache(prompt(2));
  engine.remove(first_in);
  engine.tree.evict(2);
  EXPECT_EQ(cached(prompt(2)), 0);
  EXPECT_EQ(cached(prompt(1)), 8);
}

TEST_F(Eviction, AskingIsNotUsing) {
  cache(prompt(1));
  cache(prompt(2));
  static_cast<void>(engine.tree.match_prefix(prompt(1)));
  engine.tree.evict(2);
  EXPECT_EQ(cached(prompt(1)), 0);
  EXPECT_EQ(cached(prompt(2)), 8);
}

TEST_F(Eviction, LeavesGoBeforeTheirPrefixAndFromTheirEnd) {
  cache(range(0, 16));
  cache(range(0, 8) + prompt(5));  // used later than the other leaf
  EXPECT_EQ(engine.tree.evict(1), 1);
  EXPECT_EQ(cached(range(0, 16)), 12);
  EXPECT_EQ(engine.tree.evict(1), 1);
  EXPECT_EQ(cached(range(0, 16)), 8);
  EXPECT_EQ(cached(range(0, 8) + prompt(5)), 16);
  EXPECT_EQ(engine.tree.evict(3), 3);
  EXPECT_EQ(cached(range(0, 8) + prompt(5)), 4);
  EXPECT_EQ(engine.tree.evict(100), 1);
  EXPECT_EQ(engine.tree.stats().num_nodes, 0);
}

TEST_F(Eviction, NeverTakesWhatARequestHolds) {
  const RequestId a = engine.serve(range(0, 8));
  cache(range(0, 8) + prompt(5));
  EXPECT_EQ(engine.tree.evict(100), 2);
  EXPECT_EQ(cached(range(0, 8)), 8);
  engine.decode(a, {42});
  EXPECT_EQ(engine.tree.evict(100), 0);
}

TEST_F(Eviction, ARequestHoldsNoMoreThanItsOwnTokens) {
  cache(range(0, 16));
  const RequestId a = engine.serve(range(0, 6));
  EXPECT_EQ(engine.tree.stats().pages_cached, 2);  // its second page is in use, though only half of it is its own
  EXPECT_EQ(engine.tree.evict(100), 2);
  EXPECT_EQ(cached(range(0, 16)), 6);  // tokens 6 and 7 went with their node
  engine.remove(a);
}

TEST_F(Eviction, ALockKeepsAPrefixUntilTheLastUnlock) {
  cache(range(0, 16));
  const PrefixLock a = engine.tree.lock(range(0, 6));
  const PrefixLock b = engine.tree.lock(range(0, 6));
  EXPECT_EQ(a.num_tokens, 6);
  EXPECT_EQ(engine.tree.evict(100), 2);
  EXPECT_EQ(cached(range(0, 16)), 6);
  engine.tree.unlock(a.id);
  EXPECT_EQ(engine.tree.evict(100), 0);
  engine.verify();
  engine.tree.unlock(b.id);
  EXPECT_EQ(engine.tree.evict(100), 2);
}

TEST_F(Eviction, ALockTakesWhatIsCachedAndNoMore) {
  cache(prompt(1));
  EXPECT_EQ(engine.tree.lock(prompt(1) + range(0, 5)).num_tokens, 8);
  EXPECT_EQ(engine.tree.lock(prompt(2)).num_tokens, 0);
  EXPECT_EQ(engine.tree.evict(100), 0);
}

TEST_F(Eviction, ALockedPrefixCanBeGrownByARequest) {
  cache(range(0, 6));
  engine.tree.lock(range(0, 6));
  cache(range(0, 12));
  EXPECT_FALSE(engine.last_copy);
  EXPECT_EQ(engine.tree.evict(100), 1);
  EXPECT_EQ(cached(range(0, 12)), 6);  // tokens 6 and 7 went with their node, the page is the locked prefix's
  engine.serve(range(0, 6) + Tokens{60});
  EXPECT_FALSE(engine.last_copy);  // so its slots can be taken again
}

TEST_F(Eviction, ANodeWhosePartialPageIsSupersededInAChildGoesAfterIt) {
  cache(range(0, 6));
  const RequestId a = engine.serve(range(0, 6));
  const RequestId b = engine.serve(range(0, 6));
  engine.decode(a, {60});
  engine.decode(b, {70});  // a copy of the second page
  engine.remove(a);
  engine.remove(b);
  EXPECT_EQ(engine.pool.num_used(), 3);
  EXPECT_EQ(engine.tree.evict(1), 1);  // a's token lies in the prefix's own page: only b's copy is a page to free
  EXPECT_EQ(cached(range(0, 6) + Tokens{70}), 6);
  engine.verify();
  EXPECT_EQ(engine.tree.evict(1), 1);
  EXPECT_EQ(cached(range(0, 6)), 4);
}

TEST_F(Eviction, EvictsNothingWhenNoPageWouldComeOfIt) {
  const RequestId a = engine.serve(range(0, 5));
  const RequestId b = engine.serve(range(0, 7));
  engine.remove(b);  // its own two tokens lie in a page that a holds
  EXPECT_EQ(engine.tree.stats().pages_cached, 0);
  EXPECT_EQ(engine.tree.evict(100), 0);
  EXPECT_EQ(cached(range(0, 7)), 7);
  engine.decode(a, {99});
  EXPECT_EQ(engine.last_copy->num_tokens, 1);
}

TEST_F(Eviction, InsertEvictsWhatItNeedsAndNoMore) {
  cache(prompt(1));
  cache(prompt(2));
  cache(prompt(3));
  engine.serve(range(0, 12));
  EXPECT_EQ(engine.tree.stats().evicted_pages, 1);
  EXPECT_EQ(cached(prompt(1)), 4);
  EXPECT_EQ(cached(prompt(2)), 8);
}

TEST_F(Eviction, InsertDoesNotEvictItsOwnPrefix) {
  cache(prompt(1));  // the least recently used
  cache(prompt(2));
  cache(prompt(3));
  const RequestId a = engine.serve(prompt(1) + range(0, 16));
  EXPECT_EQ(engine.tree.stats().hit_tokens, 8);
  EXPECT_EQ(cached(prompt(2)), 0);
  EXPECT_EQ(cached(prompt(3)), 8);
  EXPECT_EQ(engine.table(a).size(), 6u);
}

TEST_F(Eviction, APageThatTwoNodesOfThePrefixHaveCountsOnce) {
  cache(range(0, 6));
  const PrefixLock lock = engine.tree.lock(range(0, 6));
  cache(range(0, 8));  // a node of its own, in the locked prefix's second page
  engine.tree.unlock(lock.id);
  EXPECT_EQ(engine.tree.stats().pages_cached, 2);
  const RequestId a = engine.serve(range(0, 32));
  EXPECT_EQ(engine.table(a).size(), 8u);  // the whole pool, to the page
}

TEST_F(Eviction, AppendEvictsWhatItNeeds) {
  const RequestId a = engine.serve(prompt(1));
  cache(range(0, 24));
  EXPECT_EQ(engine.pool.num_free(), 0);
  engine.decode(a, {1});
  EXPECT_EQ(engine.tree.stats().evicted_pages, 1);
  EXPECT_EQ(cached(range(0, 24)), 20);
}

TEST_F(Eviction, PoolExhaustionInTheMiddleOfAStepChangesNothingAndSaysHowManyAreMissing) {
  // Three running requests of two full pages each, one cached page that can go, one page free.
  const RequestId a = engine.serve(prompt(1));
  const RequestId b = engine.serve(prompt(2));
  const RequestId c = engine.serve(prompt(3));
  cache(range(0, 4));
  ASSERT_EQ(engine.pool.num_free(), 1);

  engine.append(a, {1});  // the step: each request needs a page
  engine.append(b, {2});
  EXPECT_EQ(engine.tree.num_available_pages(), 0);
  const Tokens table = engine.table(c);
  const PrefixTreeStats before = engine.tree.stats();
  const Error error = error_of([&] { engine.append(c, {3, 4, 5, 6, 7}); });
  EXPECT_EQ(error.code(), ErrorCode::out_of_pages);
  EXPECT_EQ(error.missing(), 2);
  EXPECT_STREQ(error.what(), "out_of_pages: tokens: expected 2 free or evictable pages, got 0 (2 missing)");
  EXPECT_EQ(engine.table(c), table);
  EXPECT_EQ(engine.tree.seq_len(c), 8);
  EXPECT_EQ(engine.tree.stats().filled_slots, before.filled_slots);
  engine.verify();

  // The way out of a scheduler: preempt the newest, go on.
  engine.remove(c);
  engine.commit(a);
  engine.commit(b);
  EXPECT_EQ(engine.tree.num_available_pages(), 2);
  engine.serve(range(50, 57));
}

TEST_F(Eviction, AFailedInsertEvictsNothingAndTouchesNoOrder) {
  cache(prompt(1));
  cache(prompt(2));
  engine.serve(prompt(3));
  const Error error = error_of([&] { engine.insert(prompt(1) + range(0, 24)); });
  EXPECT_EQ(error.missing(), 2);  // six wanted; two free, two cached, two cached ones its own prefix
  EXPECT_EQ(engine.tree.stats().evicted_pages, 0);
  EXPECT_EQ(engine.tree.stats().requests_inserted, 3);
  EXPECT_EQ(engine.tree.stats().num_nodes, 3);
  EXPECT_EQ(cached(prompt(1)), 8);
  engine.tree.evict(2);
  EXPECT_EQ(cached(prompt(1)), 0);  // still the least recently used
}

TEST_F(Eviction, APromptLargerThanThePoolNamesWhatIsMissing) {
  EXPECT_EQ(error_of([&] { engine.insert(range(0, 33)); }).missing(), 1);
  EXPECT_EQ(engine.pool.num_free(), 8);
  engine.serve(range(0, 32));
}

TEST_F(Eviction, ACopyCountsAmongTheMissingPages) {
  engine.serve(range(0, 30));
  const Error error = error_of([&] { engine.insert(range(0, 29) + Tokens{99}); });
  EXPECT_EQ(error.missing(), 1);
  engine.serve(range(0, 29));  // takes none
}

TEST_F(Eviction, ClearGivesEverythingBack) {
  const RequestId a = engine.serve(range(0, 6));
  engine.append(a, {7, 8, 9});
  cache(prompt(2));
  engine.tree.lock(prompt(2));
  engine.tree.clear();
  engine.requests.clear();
  EXPECT_EQ(engine.pool.num_free(), 8);
  EXPECT_EQ(engine.tree.stats().num_nodes, 0);
  EXPECT_EQ(engine.tree.stats().filled_slots, 0);
  EXPECT_EQ(engine.tree.stats().evicted_pages, 0);
  EXPECT_FALSE(engine.tree.contains(a));
  engine.committed.clear();
  EXPECT_GT(engine.serve(range(0, 6)), a);  // ids are never used again
}

TEST(PrefixTree, GivesItsPagesBackWhenDestroyedOrReplaced) {
  PagePool pool(10, 4);
  {
    PrefixTree tree(pool);
    tree.commit(tree.insert(range(0, 20)).request, 20);
    PrefixTree other(pool);
    other.insert(range(0, 12));
    EXPECT_EQ(pool.num_used(), 8);
    other = std::move(tree);
    EXPECT_EQ(pool.num_used(), 5);
    EXPECT_EQ(other.match_length(range(0, 30)), 20);
    other.check_integrity();
  }
  EXPECT_EQ(pool.num_used(), 0);
}

TEST(PrefixTree, TreesMaySharePool) {
  PagePool pool(6, 4);
  PrefixTree a(pool), b(pool);
  a.insert(range(0, 12));
  b.insert(range(0, 12));
  EXPECT_EQ(error_of([&] { a.insert(range(20, 21)); }).missing(), 1);
  a.clear();
  b.insert(range(20, 32));
  a.check_integrity();
  b.check_integrity();
  EXPECT_EQ(b.stats().total_slots, 24);
}

}  // namespace
}  // namespace trunkline
