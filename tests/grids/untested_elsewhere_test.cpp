// What none of the published systems tested, end to end: one named test each.
#include <gtest/gtest.h>

#include <tuple>
#include <vector>

#include "grids/harness.hpp"

namespace trunkline::grids {
namespace {

constexpr Shape grouped{8, 2, 64, DType::bfloat16, DType::bfloat16};  // group size 4
constexpr Shape single{1, 1, 64, DType::float32, DType::float32};

Options sampled(int max_rows) {
  Options options;
  options.max_rows = max_rows;
  return options;
}

TEST(UntestedElsewhere, BatchAbove128OnATree) {
  const Batch batch = uniform_tree({1, 3, 200}, {96, 48, 20}, 16);
  ASSERT_EQ(batch.num_requests(), 200);
  expect_exact(batch, {4, 2, 64, DType::bfloat16, DType::bfloat16}, sampled(64));
}

TEST(UntestedElsewhereShort, NonUniformForest) {
  // A root with a leaf, a chain and a bush; a root with one child; requests at inner nodes too.
  const std::vector<Prefix> prefixes{{-1, 50}, {0, 3}, {0, 40}, {2, 17},  {3, 70}, {0, 16},
                                     {5, 1},   {5, 2}, {5, 33}, {-1, 20}, {9, 31}};
  expect_exact(batch_of(prefixes, {1, 4, 6, 7, 8, 10, 0, 3, 8}, 8), grouped);
}

TEST(UntestedElsewhereShort, GroupedHeadsOnATree) {
  for (const int num_kv_heads : {1, 2, 4, 12}) {
    SCOPED_TRACE(num_kv_heads);
    expect_exact(uniform_tree({1, 2, 6}, {40, 24, 9}, 8), {12, num_kv_heads, 64, DType::float16, DType::float16});
  }
}

TEST(UntestedElsewhereShort, PrefixNotAlignedToPages) {
  for (const int shared : {15, 17, 31, 33, 100}) {
    SCOPED_TRACE(shared);
    expect_exact(shared_prefix(5, shared, 7, 16), grouped);
  }
}

TEST(UntestedElsewhereShort, OneTokenNodes) { expect_exact(uniform_tree({1, 2, 4, 8}, {1, 1, 1, 1}, 1), grouped); }

TEST(UntestedElsewhereShort, RequestsEndInsideASharedPage) {
  // One long request; others end at every place of its third page.
  std::vector<Prefix> prefixes{{-1, 16}};
  std::vector<int> ends;
  for (int i = 1; i < 12; ++i) {
    prefixes.push_back({i - 1, 1});
    ends.push_back(i);
  }
  Batch batch = batch_of(prefixes, ends, 8);
  for (auto& table : batch.tables) {  // all name the page of the longest
    for (std::size_t j = 0; j < table.size(); ++j) table[j] = batch.tables.back()[j];
  }
  expect_exact(batch, grouped);
}

TEST(UntestedElsewhereShort, IdenticalRequests) { expect_exact(shared_prefix(9, 75, 0, 16), grouped); }

TEST(UntestedElsewhereShort, LargeScores) {
  // |s| of up to 1e4: one token or two take all the weight, and an ulp of a score is 1e-3.
  for (const DType dtype : {DType::float32, DType::float16, DType::bfloat16}) {
    SCOPED_TRACE(to_string(dtype));
    Options options;
    options.pattern = Pattern::large_scores;
    for (options.seed = 1; options.seed < 6; ++options.seed) {
      expect_exact(shared_prefix(6, 64, 40, 16), {4, 2, 128, dtype, dtype}, options);
    }
  }
}

TEST(UntestedElsewhereShort, LengthsZeroAndOne) {
  expect_exact(unshared({0, 1, 0, 1, 1}, 4), grouped);
  expect_exact(unshared({0, 0}, 4), grouped);
  Batch batch = batch_of({{-1, 1}}, {0, 0, -1, 0}, 16);  // a shared token, and a request without any
  expect_exact(batch, grouped);
}

TEST(UntestedElsewhereShort, SeveralRoots) { expect_exact(uniform_tree({4, 8, 16}, {33, 20, 5}, 16), grouped); }

TEST(UntestedElsewhereShort, Depth64) {
  std::vector<Prefix> prefixes;
  std::vector<int> ends;
  for (int depth = 0; depth < 64; ++depth) {  // a spine, with a request that leaves it at every step
    prefixes.push_back({depth == 0 ? -1 : 2 * (depth - 1), 4});
    prefixes.push_back({2 * depth, 3});
    ends.push_back(2 * depth + 1);
  }
  expect_exact(batch_of(prefixes, ends, 4), {2, 1, 64, DType::bfloat16, DType::bfloat16});
}

TEST(UntestedElsewhereShort, OneRequestAlone) {
  for (const int seq_len : {1, 15, 16, 17, 333}) {
    SCOPED_TRACE(seq_len);
    expect_exact(unshared({seq_len}, 16), grouped);
  }
}

TEST(UntestedElsewhere, OneLongRequestAlone) { expect_exact(unshared({9001}, 16), grouped); }

TEST(UntestedElsewhereShort, AllRequestsUnshared) { expect_exact(unshared({77, 1, 160, 45, 16, 300}, 16), grouped); }

TEST(UntestedElsewhereShort, QueryTokensOfEveryNumberAndNone) {
  Batch batch = shared_prefix(6, 48, 20, 16);
  batch.qo_lens = {1, 0, 20, 5, 2, 68};  // own tokens only, into the shared prefix, the whole prompt
  expect_exact(batch, grouped);
}

TEST(UntestedElsewhereShort, QueryTokensThatShareTheirOwnPositions) {
  // Identical requests whose queries look at different numbers of the same tokens.
  Batch batch = shared_prefix(4, 40, 0, 8);
  batch.qo_lens = {1, 3, 40, 9};
  expect_exact(batch, grouped);
}

TEST(UntestedElsewhere, ChunkedPrefillOverASharedPrefix) {
  Batch batch = shared_prefix(3, 256, 130, 16);
  batch.qo_lens = {128, 130, 64};
  expect_exact(batch, {8, 2, 128, DType::bfloat16, DType::bfloat16}, sampled(96));
}

class EveryPageSizeShort : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Pages, EveryPageSizeShort, testing::Values(1, 2, 3, 7, 16, 33, 64, 128, 1000, 1024));
TEST_P(EveryPageSizeShort, OnATree) { expect_exact(uniform_tree({1, 2, 4}, {130, 67, 9}, GetParam()), grouped); }

class EveryHeadDimShort : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(HeadDims, EveryHeadDimShort,
                         testing::Values(1, 2, 3, 7, 8, 16, 31, 63, 64, 65, 80, 96, 127, 128, 129, 192, 255, 256));
TEST_P(EveryHeadDimShort, EveryDType) {
  for (const DType dtype : {DType::float32, DType::float16, DType::bfloat16}) {
    SCOPED_TRACE(to_string(dtype));
    expect_exact(shared_prefix(11, 40, 9, 8), {4, 2, GetParam(), dtype, dtype});
  }
}

class EveryGroupSizeShort : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Groups, EveryGroupSizeShort, testing::Values(1, 2, 3, 5, 7, 8, 9, 16, 71));
TEST_P(EveryGroupSizeShort, SharedAndOwn) {
  expect_exact(shared_prefix(4, 40, 11, 8), {2 * GetParam(), 2, 64, DType::bfloat16, DType::bfloat16}, sampled(80));
}

class DTypePairShort : public testing::TestWithParam<std::tuple<DType, DType>> {};
INSTANTIATE_TEST_SUITE_P(DTypes, DTypePairShort,
                         testing::Combine(testing::Values(DType::float32, DType::float16, DType::bfloat16),
                                          testing::Values(DType::float32, DType::float16, DType::bfloat16)));
TEST_P(DTypePairShort, QAndKvMayDiffer) {
  const auto [q_dtype, kv_dtype] = GetParam();
  expect_exact(shared_prefix(13, 70, 20, 16), {4, 2, 128, q_dtype, kv_dtype});
}

class EveryMemoryShort : public testing::TestWithParam<Memory> {};
INSTANTIATE_TEST_SUITE_P(Memories, EveryMemoryShort,
                         testing::Values(Memory::nhd, Memory::hnd, Memory::apart, Memory::padded));
TEST_P(EveryMemoryShort, OnATree) {
  Options options;
  options.memory = GetParam();
  for (const DType dtype : {DType::float32, DType::float16, DType::bfloat16}) {
    expect_exact(uniform_tree({1, 2, 10}, {40, 24, 9}, 8), {6, 2, 80, dtype, dtype}, options);
  }
}

TEST(UntestedElsewhereShort, ScaleOfAnySignAndZero) {
  for (const float scale : {0.0f, 1.0f, -0.3f}) {
    SCOPED_TRACE(scale);
    Options options;
    options.sm_scale = scale;
    expect_exact(shared_prefix(5, 40, 9, 8), grouped, options);
  }
}

TEST(UntestedElsewhereShort, SharingThatCostsNothingIsAlwaysChosen) {
  // A device without fixed costs keeps every node shared, however small: `auto` then merges at every level.
  Options options;
  options.free_of_costs = true;
  options.strategies = {Strategy::automatic};
  expect_exact(uniform_tree({1, 2, 4, 16}, {9, 5, 3, 2}, 1), grouped, options);
}

TEST(UntestedElsewhereShort, ForestOfLevels) {
  // A system prompt of two pages for all, a tool page for two of three, own pages.
  const std::vector<std::int32_t> all{0, 3}, pairs{0, 2, 3}, each{0, 1, 2, 3};
  const std::vector<std::int32_t> system_pages{0, 1}, tool_pages{2, 3}, own_pages{4, 5, 6};
  const std::vector<std::int32_t> system_indptr{0, 2}, tool_indptr{0, 1, 2}, own_indptr{0, 1, 2, 3};
  const std::vector<std::int32_t> system_tokens{16}, tool_tokens{8, 8}, own_tokens{3, 8, 1};
  const std::vector<Level> levels{{all, system_indptr, system_pages, system_tokens},
                                  {pairs, tool_indptr, tool_pages, tool_tokens},
                                  {each, own_indptr, own_pages, own_tokens}};
  Batch batch;
  batch.page_size = 8, batch.num_pages = 7;
  batch.tables = {{0, 1, 2, 4}, {0, 1, 2, 5}, {0, 1, 3, 6}};
  batch.seq_lens = {27, 32, 25};
  Options options;
  options.shuffle_pages = false;
  const Problem problem(batch, grouped, options);
  const Forest forest = Forest::from_levels(levels, 8);
  EXPECT_EQ(forest.nodes().size(), 5u);  // the third request's tool and own tokens are one node
  problem.expect_exact(forest);
}

TEST(UntestedElsewhereShort, AdvancedForest) {
  // Before: three requests on two shared pages. Then one leaves, one grows into a new page, one joins.
  const std::vector<std::int32_t> before{0, 1, 2, 0, 1, 3, 0, 1, 4}, lens{20, 24, 17};
  Forest forest = Forest::from_block_tables(BlockTables::dense(before, 3, 3), lens, 8);
  Deltas deltas;
  deltas.leave = {0};
  deltas.grow = {{1, 1, {5}}, {2, 3, {}}};
  deltas.join = {{7, 19, 2, {0, 1, 6}}};
  forest.advance(deltas);
  Batch batch;
  batch.page_size = 8, batch.num_pages = 7;
  batch.tables = {{0, 1, 3, 5}, {0, 1, 4}, {0, 1, 6}};
  batch.seq_lens = {25, 20, 19};
  batch.qo_lens = {1, 1, 2};
  Options options;
  options.shuffle_pages = false;
  Problem(batch, grouped, options).expect_exact(forest);
}

}  // namespace
}  // namespace trunkline::grids
