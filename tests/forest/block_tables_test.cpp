// from_block_tables: the corner cases by name, each stated as the nodes it must give and held against the naive forest.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "forest/batch.hpp"

namespace trunkline::test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

/// Dense and CSR give the naive forest; returns it.
Forest forest_of(const Batch& batch) {
  Forest forest = batch.dense();
  EXPECT_EQ(difference(forest, batch), "");
  EXPECT_TRUE(batch.csr() == forest);
  EXPECT_TRUE(batch.csr(2) == forest);
  return forest;
}

std::vector<std::int32_t> numbered(int count, std::int32_t first) {
  std::vector<std::int32_t> pages(count);
  std::iota(pages.begin(), pages.end(), first);
  return pages;
}

std::vector<std::int32_t> joined(std::vector<std::int32_t> head, const std::vector<std::int32_t>& tail) {
  head.insert(head.end(), tail.begin(), tail.end());
  return head;
}

TEST(FromBlockTables, OneRequestAlone) {
  const Forest forest = forest_of(Batch::of(4, {{10, {5, 3, 9}}}));
  EXPECT_THAT(forest.nodes(), ElementsAre(Node{-1, 0, 10, 0, 1}));
  EXPECT_THAT(forest.request_order(), ElementsAre(0));
  EXPECT_EQ(forest.share(), 1.0);
}

TEST(FromBlockTables, NoRequests) {
  const Forest forest = forest_of(Batch::of(4, {}));
  EXPECT_THAT(forest.nodes(), IsEmpty());
  EXPECT_EQ(forest.page_size(), 4);
  EXPECT_EQ(forest.share(), 1.0);
  EXPECT_EQ(forest.num_query_tokens(), 0);
}

TEST(FromBlockTables, AllUnshared) {
  const Forest forest = forest_of(Batch::of(4, {{5, {0, 1}}, {8, {2, 3}}, {1, {4}}}));
  EXPECT_THAT(forest.nodes(), ElementsAre(Node{-1, 0, 5, 0, 1}, Node{-1, 0, 8, 1, 2}, Node{-1, 0, 1, 2, 3}));
  EXPECT_EQ(forest.distinct_tokens(), forest.total_tokens());
}

TEST(FromBlockTables, IdenticalRequests) {
  const Forest forest = forest_of(Batch::of(4, {{7, {2, 1}}, {7, {2, 1}}, {7, {2, 1}}}));
  EXPECT_THAT(forest.nodes(), ElementsAre(Node{-1, 0, 7, 0, 3}));
  EXPECT_EQ(forest.share(), 3.0);
}

TEST(FromBlockTables, LengthsZeroAndOne) {
  const Forest forest = forest_of(Batch::of(4, {{1, {6}}, {0, {}}, {1, {6}}, {0, {}}, {1, {7}}}));
  // Requests without tokens are in no node and stand first.
  EXPECT_THAT(forest.nodes(), ElementsAre(Node{-1, 0, 1, 2, 4}, Node{-1, 0, 1, 4, 5}));
  EXPECT_THAT(forest.request_order(), ElementsAre(1, 3, 0, 2, 4));
}

TEST(FromBlockTables, OnlyRequestsOfLengthZero) {
  const Forest forest = forest_of(Batch::of(4, {{0, {}}, {0, {}}}));
  EXPECT_THAT(forest.nodes(), IsEmpty());
  EXPECT_THAT(forest.request_order(), ElementsAre(0, 1));
}

TEST(FromBlockTables, PrefixNotAlignedToPages) {
  // 6 common tokens: the second page, half filled, is still common; then one request takes its next slots.
  const Forest forest = forest_of(Batch::of(4, {{6, {1, 2}}, {11, {1, 2, 3}}}));
  EXPECT_THAT(forest.nodes(), ElementsAre(Node{-1, 0, 6, 0, 2}, Node{0, 6, 5, 1, 2}));
}

TEST(FromBlockTables, RequestsEndingInsideASharedPage) {
  const Forest forest = forest_of(Batch::of(8, {{16, {1, 2}}, {11, {1, 2}}, {13, {1, 2}}, {9, {1, 2}}, {11, {1, 2}}}));
  EXPECT_THAT(forest.nodes(),
              ElementsAre(Node{-1, 0, 9, 0, 5}, Node{0, 9, 2, 1, 5}, Node{1, 11, 2, 3, 5}, Node{2, 13, 3, 4, 5}));
  EXPECT_THAT(forest.request_order(), ElementsAre(3, 1, 4, 2, 0));
}

TEST(FromBlockTables, PartlyFilledLastPagesOfDifferentRequestsAreNotShared) {
  forest_of(Batch::of(4, {{6, {1, 2}}, {6, {1, 3}}}));
}

TEST(FromBlockTables, OneTokenNodes) {
  const Forest forest = forest_of(Batch::of(1, {{3, {1, 2, 3}}, {3, {1, 2, 4}}, {2, {1, 5}}, {1, {6}}}));
  EXPECT_THAT(forest.nodes(), ElementsAre(Node{-1, 0, 1, 0, 3}, Node{0, 1, 1, 0, 2}, Node{1, 2, 1, 0, 1},
                                          Node{1, 2, 1, 1, 2}, Node{0, 1, 1, 2, 3}, Node{-1, 0, 1, 3, 4}));
}

TEST(FromBlockTables, SeveralRoots) {
  const Forest forest = forest_of(Batch::of(2, {{4, {1, 2}}, {4, {5, 6}}, {4, {1, 3}}, {4, {5, 7}}}));
  EXPECT_THAT(forest.nodes(), ElementsAre(Node{-1, 0, 2, 0, 2}, Node{0, 2, 2, 0, 1}, Node{0, 2, 2, 1, 2},
                                          Node{-1, 0, 2, 2, 4}, Node{3, 2, 2, 2, 3}, Node{3, 2, 2, 3, 4}));
  EXPECT_THAT(forest.request_order(), ElementsAre(0, 2, 1, 3));
}

TEST(FromBlockTables, SiblingsStandInTheOrderOfTheirSmallestCallersIndex) {
  const Forest forest = forest_of(Batch::of(1, {{2, {1, 9}}, {2, {0, 5}}, {2, {1, 3}}, {1, {0}}, {2, {1, 9}}}));
  EXPECT_THAT(forest.request_order(), ElementsAre(0, 4, 2, 3, 1));
}

TEST(FromBlockTables, NonUniformForest) {
  forest_of(Batch::of(4, {{40, numbered(10, 0)},
                          {23, joined(numbered(3, 0), {50, 51, 52})},
                          {9, {50, 51, 52}},
                          {33, joined(numbered(7, 0), {60, 61})},
                          {12, numbered(3, 0)},
                          {17, {50, 51, 52, 61, 60}},
                          {40, numbered(10, 100)}}));
}

TEST(FromBlockTables, Depth64) {
  // Request i leaves the common line after i tokens and goes one token of its own.
  std::vector<Batch::Plain> requests;
  for (int i = 0; i < 65; ++i) {
    requests.push_back({i + 1, joined(numbered(i, 0), {1000 + i})});
  }
  const Forest forest = forest_of(Batch::of(1, requests));
  std::vector<int> depths;
  for (const Node& node : forest.nodes()) {
    depths.push_back(node.parent == -1 ? 1 : depths[node.parent] + 1);
  }
  EXPECT_EQ(*std::max_element(depths.begin(), depths.end()), 64);
}

TEST(FromBlockTables, Depth64WithinOnePage) {
  std::vector<Batch::Plain> requests;
  for (int i = 64; i > 0; --i) {
    requests.push_back({i, {7}});
  }
  const Forest forest = forest_of(Batch::of(64, requests));
  EXPECT_EQ(forest.nodes().size(), 64u);
  EXPECT_EQ(forest.distinct_tokens(), 64);
}

TEST(FromBlockTables, BatchAbove128OnATree) {
  std::mt19937 random(3);
  std::vector<Batch::Plain> requests;
  for (int i = 0; i < 300; ++i) {
    std::vector<std::int32_t> pages;
    for (int level = 0; level < 6; ++level) {
      pages.push_back(static_cast<std::int32_t>(random() % 3) + 3 * level);
    }
    requests.push_back({static_cast<std::int32_t>(random() % 25), pages});
    requests.back().pages.resize((requests.back().seq_len + 3) / 4);
  }
  forest_of(Batch::of(4, requests));
}

TEST(FromBlockTables, EqualPagesAfterADivergenceAreNotShared) {
  const Forest forest = forest_of(Batch::of(2, {{6, {1, 2, 3}}, {6, {1, 9, 3}}}));
  EXPECT_THAT(forest.nodes(), ElementsAre(Node{-1, 0, 2, 0, 2}, Node{0, 2, 4, 0, 1}, Node{0, 2, 4, 1, 2}));
}

TEST(FromBlockTables, EqualPagesAtOtherPositionsAreNotShared) {
  const Forest forest = forest_of(Batch::of(2, {{4, {1, 2}}, {4, {2, 1}}, {4, {3, 3}}, {2, {2}}}));
  EXPECT_EQ(forest.distinct_tokens(), 12);
}

TEST(FromBlockTables, DivergenceAnywhereInALongRow) {
  // Every entry around the blocks in which rows are compared.
  const auto line = numbered(200, 0);
  for (int at = 0; at < 200; ++at) {
    auto other = line;
    other[at] = 5000;
    const Forest forest = Batch::of(1, {{200, line}, {200, other}}).dense();
    ASSERT_EQ(forest.distinct_tokens(), 400 - at);
  }
}

TEST(FromBlockTables, ManyRootsAndManyChildren) {
  std::vector<Batch::Plain> requests;
  for (int i = 0; i < 1500; ++i) {
    requests.push_back({i % 2 == 0 ? 4 : 2, i % 2 == 0 ? std::vector<std::int32_t>{0, 10000 - i} : std::vector{i}});
  }
  const Batch batch = Batch::of(2, requests);
  const Forest forest = batch.dense();
  ASSERT_EQ(forest.nodes().size(), 1501u);
  EXPECT_EQ(forest.nodes()[0], (Node{-1, 0, 2, 0, 750}));
  for (std::size_t i = 0; i < 750; ++i) {
    const auto place = static_cast<std::int32_t>(i);
    EXPECT_EQ(forest.nodes()[1 + i], (Node{0, 2, 2, place, place + 1}));
    EXPECT_EQ(forest.request_order()[i], 2 * place);
    EXPECT_EQ(forest.nodes()[751 + i], (Node{-1, 0, 2, 750 + place, 751 + place}));
    EXPECT_EQ(forest.request_order()[750 + i], 2 * place + 1);
  }
}

TEST(FromBlockTables, RowsWiderThanWhatMayBeRead) {
  constexpr std::int32_t poison = Tables::poison;
  const std::vector<std::int32_t> entries = {1, 2, poison, poison, 1, 3, poison};  // the last row ends at max_pages
  const std::vector<std::int32_t> seq_lens = {3, 4};
  const Forest forest = Forest::from_block_tables(BlockTables::dense(entries, 2, 3, 4), seq_lens, 2);
  EXPECT_TRUE(forest == Batch::of(2, {{3, {1, 2}}, {4, {1, 3}}}).dense());
}

TEST(FromBlockTables, CsrNeedNotStartAtZero) {
  constexpr std::int32_t poison = Tables::poison;
  const std::vector<std::int32_t> indices = {poison, 1, 2, 1, poison, poison}, indptr = {1, 3, 5}, seq_lens = {4, 1};
  const Forest forest = Forest::from_block_tables(BlockTables::csr(indptr, indices), seq_lens, 2);
  EXPECT_TRUE(forest == Batch::of(2, {{4, {1, 2}}, {1, {1}}}).dense());
}

TEST(FromBlockTables, CallersArraysMayGo) {
  const Batch batch = Batch::of(2, {{3, {1, 2}}, {4, {1, 3}}});
  Tables tables(batch, true, 2);
  const Forest forest = Forest::from_block_tables(tables.view(), tables.seq_lens, 2, tables.options(4));
  for (auto* array : {&tables.entries, &tables.seq_lens, &tables.qo_lens}) {
    array->assign(array->size(), Tables::poison);
  }
  EXPECT_EQ(difference(forest, batch), "");
}

TEST(FromBlockTables, QueryTokens) {
  Batch batch = Batch::of(4, {{8, {1, 2}}, {8, {1, 3}}, {0, {}}});
  batch.requests[0].qo_len = 8;
  batch.requests[1].qo_len = 0;
  batch.requests[2].qo_len = 5;  // they see nothing
  const Forest forest = forest_of(batch);
  EXPECT_THAT(forest.qo_lens(), ElementsAre(8, 0, 5));
  EXPECT_EQ(forest.num_query_tokens(), 13);
}

TEST(FromBlockTables, DefaultsAreOneQueryTokenAndIdsThatCount) {
  const std::vector<std::int32_t> entries = {1, 2}, seq_lens = {1, 1};
  const Forest forest = Forest::from_block_tables(BlockTables::dense(entries, 2, 1), seq_lens, 1);
  EXPECT_THAT(forest.qo_lens(), ElementsAre(1, 1));
  EXPECT_THAT(forest.request_ids(), ElementsAre(0, 1));
}

TEST(FromBlockTables, PageSizesOneAndLargest) {
  forest_of(Batch::of(1, {{1, {0}}, {2, {0, INT32_MAX}}}));
  forest_of(Batch::of(1024, {{1024, {3}}, {1025, {3, 4}}, {1023, {3}}}));
}

TEST(FromBlockTables, LargeMillionTokensAtPageSizeOne) {
  const auto line = numbered(1 << 20, 0);
  auto other = line;
  other.back() = 0;
  const Forest forest = Batch::of(1, {{1 << 20, line}, {1 << 20, other}, {(1 << 20) - 5, line}}).csr();
  EXPECT_EQ(forest.nodes().size(), 4u);
  EXPECT_EQ(forest.distinct_tokens(), (1 << 20) + 1);
}

TEST(FromBlockTables, LargeTokensBeyond32Bits) {
  // 4096 requests of a million tokens each: all sums are of 64 bits.
  constexpr int num_requests = 4096, num_pages = 1024, page_size = 1024;
  std::vector<std::int32_t> entries(num_requests * num_pages);
  for (int request = 0; request < num_requests; ++request) {
    for (int entry = 0; entry < num_pages; ++entry) {
      entries[request * num_pages + entry] = entry < 1000 ? entry : request * 24 + entry;
    }
  }
  const std::vector<std::int32_t> seq_lens(num_requests, num_pages * page_size);
  const Forest forest =
      Forest::from_block_tables(BlockTables::dense(entries, num_requests, num_pages), seq_lens, page_size);
  EXPECT_EQ(forest.nodes().size(), 1u + num_requests);
  EXPECT_EQ(forest.total_tokens(), std::int64_t{num_requests} * num_pages * page_size);
  EXPECT_EQ(forest.distinct_tokens(), (1000 + std::int64_t{24} * num_requests) * page_size);
}

}  // namespace
}  // namespace trunkline::test
