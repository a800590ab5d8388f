// Forest::advance: every kind of change by name. After each the forest is the naive one, equal to the one built anew,
// and a copy of its table kept by table_changes() alone is the table.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "forest/batch.hpp"

namespace trunkline::test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class Advance : public testing::Test {
 protected:
  void start(int page_size, const std::vector<Batch::Plain>& requests) {
    batch = Batch::of(page_size, requests);
    forest = batch.dense();
    mirror.refresh(forest);
  }

  void step(const Deltas& deltas) {
    const auto uid = forest.uid(), version = forest.version();
    forest.advance(deltas);
    batch.apply(deltas);
    mirror.refresh(forest);
    EXPECT_EQ(forest.uid(), uid);
    EXPECT_EQ(forest.version(), version + 1);
    EXPECT_EQ(difference(forest, batch), "");
    EXPECT_EQ(mirror.difference(forest), "");
    EXPECT_TRUE(forest == batch.dense());
  }
  void grow(RequestId id, std::int32_t num_tokens, std::vector<std::int32_t> pages = {}) {
    Deltas deltas;
    deltas.grow.push_back({id, num_tokens, std::move(pages)});
    step(deltas);
  }
  void replace(RequestId id, std::int32_t first_page, std::vector<std::int32_t> pages) {
    Deltas deltas;
    deltas.replace.push_back({id, first_page, std::move(pages)});
    step(deltas);
  }
  void leave(std::vector<RequestId> ids) {
    Deltas deltas;
    deltas.leave = std::move(ids);
    step(deltas);
  }
  void join(RequestId id, std::int32_t seq_len, std::vector<std::int32_t> pages) {
    Deltas deltas;
    deltas.join.push_back({id, seq_len, 1, std::move(pages)});
    step(deltas);
  }
  std::vector<std::vector<std::int32_t>> changes() const {
    std::vector<std::vector<std::int32_t>> result;
    for (const auto& change : forest.table_changes()) {
      result.push_back({change.row, change.begin, change.end});
    }
    return result;
  }

  Batch batch;
  Forest forest;
  Mirror mirror;
};

TEST_F(Advance, EmptyDeltasOnlyCountTheVersion) {
  start(4, {{10, {1, 2, 3}}, {6, {1, 2}}});
  step({});
  EXPECT_THAT(forest.table_changes(), IsEmpty());
}

TEST_F(Advance, EveryRequestGrowsForManySteps) {
  // From within a page over several pages, so that rows get wider than they were made.
  start(4, {{9, {1, 2, 3}}, {9, {1, 2, 4}}, {5, {1, 9}}, {1, {8}}});
  std::int32_t page = 100;
  for (int i = 0; i < 200; ++i) {
    Deltas deltas;
    for (const Request& request : batch.requests) {
      deltas.grow.push_back({request.id, 1, {}});
      if (request.seq_len % 4 == 0) {
        deltas.grow.back().pages.push_back(page++);
      }
    }
    step(deltas);
  }
  EXPECT_EQ(forest.nodes().size(), 6u);
}

TEST_F(Advance, OnlyWhatChangedIsListed) {
  start(4, {{7, {1, 2}}, {8, {1, 3}}, {8, {5, 6}}});
  Deltas deltas;
  deltas.grow = {{0, 1, {}}, {1, 1, {4}}};
  deltas.replace = {{2, 1, {7}}};
  step(deltas);
  EXPECT_THAT(changes(), ElementsAre(ElementsAre(2, 1, 2), ElementsAre(1, 2, 3)));
}

TEST_F(Advance, GrowthInAnyOrderOfRequests) {
  start(4, {{5, {1, 2}}, {5, {1, 3}}, {5, {1, 4}}});
  Deltas deltas;
  deltas.grow = {{2, 1, {}}, {0, 3, {}}, {1, 4, {7}}, {2, 1, {}}};
  step(deltas);
}

TEST_F(Advance, AGrowingRequestLeavesTheOthersInASharedPage) {
  start(8, {{11, {1, 2}}, {11, {1, 2}}, {11, {1, 2}}});
  grow(1, 1);
  EXPECT_THAT(forest.nodes(), ElementsAre(Node{-1, 0, 11, 0, 3}, Node{0, 11, 1, 2, 3}));
}

TEST_F(Advance, AGrowingRequestCatchesUpInASharedPage) {
  start(8, {{9, {1, 2}}, {11, {1, 2}}, {16, {1, 2}}});
  grow(0, 1);
  grow(0, 1);  // now as long as request 1
  grow(0, 4);
  grow(0, 2, {5});  // longer than all
}

TEST_F(Advance, AGrowingRequestRunsOnIntoPagesThatOthersHave) {
  start(2, {{2, {1}}, {8, {1, 2, 3, 4}}, {6, {1, 2, 9}}});
  grow(0, 5, {2, 3, 4});
}

TEST_F(Advance, IdenticalRequestsGrowTogether) {
  start(4, {{6, {1, 2}}, {6, {1, 2}}, {6, {1, 2}}});
  Deltas deltas;
  deltas.grow = {{0, 3, {5}}, {1, 3, {5}}, {2, 3, {5}}};
  step(deltas);
  EXPECT_THAT(forest.nodes(), ElementsAre(Node{-1, 0, 9, 0, 3}));
}

TEST_F(Advance, ARequestOfLengthZeroGrows) {
  start(4, {{0, {}}, {6, {1, 2}}, {0, {}}});
  grow(0, 6, {1, 2});
  grow(2, 1, {9});
}

TEST_F(Advance, GrowthByNothing) {
  start(4, {{0, {}}, {6, {1, 2}}, {6, {1, 2}}});
  grow(0, 0);
  grow(1, 0);
}

TEST_F(Advance, ForkedRequestsCopyTheirLastPageAndGrow) {
  // All but one replace the partly filled page, all at once: nobody is left beyond the first page but in what is new.
  start(4, {{7, {1, 2}}, {7, {1, 2}}, {7, {1, 2}}});
  Deltas deltas;
  deltas.replace = {{0, 1, {10}}, {1, 1, {11}}, {2, 1, {12}}};
  deltas.grow = {{0, 1, {}}, {1, 1, {}}, {2, 1, {}}};
  step(deltas);
  EXPECT_THAT(forest.nodes(),
              ElementsAre(Node{-1, 0, 4, 0, 3}, Node{0, 4, 4, 0, 1}, Node{0, 4, 4, 1, 2}, Node{0, 4, 4, 2, 3}));
}

TEST_F(Advance, DeduplicatedPagesMakeRequestsShareAgain) {
  start(2, {{8, {1, 2, 3, 4}}, {8, {1, 9, 3, 4}}, {8, {1, 9, 3, 5}}});
  replace(1, 1, {2});  // the equal pages after it become shared, too
  EXPECT_THAT(forest.nodes(), ElementsAre(Node{-1, 0, 2, 0, 3}, Node{0, 2, 6, 0, 2}, Node{0, 2, 6, 2, 3}));
  replace(2, 1, {2});
}

TEST_F(Advance, AReplacedFirstPageMovesARequestToAnotherRoot) {
  start(2, {{4, {1, 2}}, {4, {5, 6}}, {4, {5, 2}}});
  replace(2, 0, {1});
  EXPECT_THAT(forest.nodes(), ElementsAre(Node{-1, 0, 4, 0, 2}, Node{-1, 0, 4, 2, 3}));
}

TEST_F(Advance, AReplacedPageInMidNodeDivides) {
  start(2, {{8, {1, 2, 3, 4}}, {8, {1, 2, 3, 4}}, {8, {1, 2, 3, 4}}});
  replace(1, 2, {7});
  EXPECT_THAT(forest.nodes(), ElementsAre(Node{-1, 0, 4, 0, 3}, Node{0, 4, 4, 0, 2}, Node{0, 4, 4, 2, 3}));
}

TEST_F(Advance, APageReplacedForAllThatShareItStaysShared) {
  start(2, {{8, {1, 2, 3, 4}}, {7, {1, 2, 3, 4}}, {6, {1, 2, 3}}});
  Deltas deltas;
  deltas.replace = {{2, 1, {8}}, {0, 1, {8}}, {1, 1, {8}}};
  step(deltas);
  EXPECT_EQ(forest.distinct_tokens(), 8);
}

TEST_F(Advance, APageReplacedByItself) {
  start(2, {{8, {1, 2, 3, 4}}, {8, {1, 2, 3, 4}}});
  replace(1, 1, {2, 3});
}

TEST_F(Advance, OnesOwnPageReplaced) {
  start(2, {{8, {1, 2, 3, 4}}, {8, {1, 5, 6, 7}}});
  replace(1, 2, {9});   // after the node's first page: nothing else changes
  replace(1, 1, {10});  // its first page: it might have met others
  replace(1, 1, {2});
}

TEST_F(Advance, AReplacedPageThatHoldsTheEndOfAnother) {
  // Request 1's own node begins in mid-page, where request 0 ends; replacing that page takes it off before.
  start(4, {{6, {1, 2}}, {12, {1, 2, 3}}});
  replace(1, 1, {5});
  EXPECT_THAT(forest.nodes(), ElementsAre(Node{-1, 0, 4, 0, 2}, Node{0, 4, 2, 0, 1}, Node{0, 4, 8, 1, 2}));
}

TEST_F(Advance, SeveralReplacementsOfOneRequestAndGrowth) {
  start(2, {{10, {1, 2, 3, 4, 5}}, {10, {1, 2, 3, 4, 5}}, {10, {1, 8, 3, 9, 5}}});
  Deltas deltas;
  deltas.replace = {{1, 3, {9}}, {1, 1, {8}}, {0, 4, {7}}};
  deltas.grow = {{1, 1, {20}}, {0, 2, {21}}, {2, 1, {20}}};
  step(deltas);
}

TEST_F(Advance, ALeavingRequestJoinsANodeWithItsParent) {
  start(2, {{4, {1, 2}}, {6, {1, 3, 4}}});
  leave({0});
  EXPECT_THAT(forest.nodes(), ElementsAre(Node{-1, 0, 6, 0, 1}));
}

TEST_F(Advance, TheOneThatEndedInMidNodeLeaves) {
  start(8, {{16, {1, 2}}, {11, {1, 2}}, {16, {1, 2}}});
  leave({1});
  EXPECT_THAT(forest.nodes(), ElementsAre(Node{-1, 0, 16, 0, 2}));
}

TEST_F(Advance, TheFirstRequestLeavesAndSiblingsChangePlaces) {
  start(1, {{2, {1, 5}}, {2, {2, 6}}, {2, {1, 7}}, {2, {2, 8}}});
  leave({0});
  EXPECT_THAT(forest.request_ids(), ElementsAre(1, 2, 3));
  EXPECT_THAT(forest.request_order(), ElementsAre(0, 2, 1));
}

TEST_F(Advance, AllLeaveAndOthersJoin) {
  start(2, {{4, {1, 2}}, {6, {1, 3, 4}}, {0, {}}});
  leave({2, 0, 1});
  EXPECT_THAT(forest.nodes(), IsEmpty());
  join(5, 4, {1, 2});
  join(6, 3, {1, 2});
}

TEST_F(Advance, JoinsAnEmptyBatch) {
  start(2, {});
  join(-4, 3, {1, 2});
  join(3, 0, {});
  grow(3, 3, {1, 2});
}

TEST_F(Advance, ManyJoinAtOnce) {
  start(2, {{4, {1, 2}}});
  Deltas deltas;
  for (int i = 0; i < 40; ++i) {
    deltas.join.push_back({100 - i, 4 + i % 3, 1, {1 + i % 2, 2, 7}});
    deltas.join.back().pages.resize((4 + i % 3 + 1) / 2);
  }
  step(deltas);
  EXPECT_THAT(forest.request_ids()[1], 100);  // in the order given, whatever their ids
}

TEST_F(Advance, ARequestLeavesAndComesBackInOneStep) {
  start(2, {{4, {1, 2}}, {4, {1, 3}}, {4, {1, 4}}});
  Deltas deltas;
  deltas.leave = {0};
  deltas.join.push_back({0, 4, 1, {1, 3}});
  step(deltas);
  EXPECT_THAT(forest.request_ids(), ElementsAre(1, 2, 0));
}

TEST_F(Advance, RowsStayInPlaceAndAreUsedAgain) {
  start(2, {{4, {1, 2}}, {4, {1, 3}}, {4, {1, 4}}, {4, {1, 5}}});
  leave({1, 2});
  EXPECT_THAT(forest.table_rows(), ElementsAre(0, 3));
  join(10, 2, {1});
  EXPECT_THAT(forest.table_rows(), ElementsAre(0, 3, 1));
  EXPECT_THAT(changes(), ElementsAre(ElementsAre(1, 0, 1)));
  leave({3});
  EXPECT_EQ(forest.table().num_rows, 2);
  join(11, 2, {1});
  join(12, 2, {1});
  EXPECT_THAT(forest.table_rows(), ElementsAre(0, 1, 2, 3));
}

TEST_F(Advance, QueryTokensStayUntilChanged) {
  start(4, {{8, {1, 2}}, {8, {1, 3}}, {0, {}}});
  Deltas deltas;
  deltas.qo_lens = {{1, 4}, {2, 9}};
  step(deltas);
  EXPECT_EQ(forest.num_query_tokens(), 14);
  grow(1, 1, {5});
  EXPECT_THAT(forest.qo_lens(), ElementsAre(1, 4, 9));
  deltas.clear();
  deltas.grow = {{2, 3, {1}}};
  deltas.qo_lens = {{2, 3}, {0, 0}};
  step(deltas);
  deltas.clear();
  deltas.grow = {{0, 4, {7}}};
  deltas.qo_lens = {{0, 12}};  // checked against the length after growth
  step(deltas);
}

TEST_F(Advance, EverythingAtOnce) {
  start(4, {{10, {1, 2, 3}}, {10, {1, 2, 4}}, {6, {1, 2}}, {12, {8, 9, 10}}, {0, {}}});
  Deltas deltas;
  deltas.leave = {1};
  deltas.replace = {{3, 0, {1, 2}}};
  deltas.grow = {{3, 5, {11, 12}}, {0, 1, {}}, {4, 9, {1, 2, 10}}};
  deltas.qo_lens = {{4, 9}, {0, 2}};
  deltas.join = {{7, 11, 11, {1, 2, 3}}, {1, 1, 1, {8}}};
  step(deltas);
}

TEST_F(Advance, DecodeOfSharedPromptsForManySteps) {
  // Continuous batching: three prompts of 5 pages with a common first page; requests grow, finish and are replaced.
  std::mt19937 random(11);
  std::int32_t page = 1000;
  const auto prompt = [](int which) {
    std::vector<std::int32_t> pages{0};
    for (int i = 0; i < 4; ++i) {
      pages.push_back(10 * which + i + 1);
    }
    return pages;
  };
  start(4, {});
  RequestId next_id = 0;
  for (int i = 0; i < 150; ++i) {
    Deltas deltas;
    for (const Request& request : batch.requests) {
      if (request.seq_len > 20 && random() % 20 == 0) {
        deltas.leave.push_back(request.id);
        continue;
      }
      deltas.grow.push_back({request.id, 1, {}});
      if (request.seq_len == 19) {  // copy on write of the prompt's last page
        deltas.replace.push_back({request.id, 4, {page++}});
      } else if (request.seq_len % 4 == 0) {
        deltas.grow.back().pages.push_back(page++);
      }
    }
    while (batch.requests.size() - deltas.leave.size() + deltas.join.size() < 12) {
      deltas.join.push_back({next_id++, 19, 1, prompt(static_cast<int>(random() % 3))});
    }
    step(deltas);
  }
}

}  // namespace
}  // namespace trunkline::test
