// ChunkAttention's grids: its GPU and CPU cases, the small case, its gtest's shape, and its tree, with our tree's
// results where ours shares more.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "grids/harness.hpp"

namespace trunkline::grids {
namespace {

/// 32 sequences of 2000 tokens, the first 1000 shared.
constexpr int num_sequences = 32, shared_tokens = 1000, own_tokens = 1000;

TEST(ChunkAttention, GpuFloat16Chunk64) {
  const Shape shape{2, 2, 128, DType::float16, DType::float16};
  expect_exact(shared_prefix(num_sequences, shared_tokens, own_tokens, 64), shape);
}

class ChunkAttentionCpu : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(ChunkSizes, ChunkAttentionCpu, testing::Values(32, 64, 128, 256, 512, 1024));

TEST_P(ChunkAttentionCpu, Float32) {
  const Shape shape{2, 2, 128, DType::float32, DType::float32};
  Options options;
  options.max_rows = 32;
  expect_exact(shared_prefix(num_sequences, shared_tokens, own_tokens, GetParam()), shape, options);
}

TEST(ChunkAttentionShort, TwoHeadsOfFourInChunksOfTwo) {
  // [1,2,3,4,5] and [1,2,3,4,6,7]
  const Batch batch = batch_of({{-1, 4}, {0, 1}, {0, 2}}, {1, 2}, 2);
  EXPECT_EQ(batch.num_pages, 4);
  expect_exact(batch, {2, 2, 4, DType::float32, DType::float32});
}

TEST(ChunkAttention, GtestShape) {
  // 256 chunks of 64 in all: 16 that all 15 sequences share, 16 of each one's own.
  const Batch batch = shared_prefix(15, 16 * 64, 16 * 64, 64);
  EXPECT_EQ(batch.num_pages, 256);
  Options options;
  options.max_rows = 48;
  expect_exact(batch, {16, 16, 128, DType::float16, DType::float16}, options);
}

/// The tree of its test, chunk 2, with the attention of every state held to the reference.
struct ChunkAttentionTreeShort : testing::Test {
  PagePool pool{32, 2};
  PrefixTree tree{pool};
  std::vector<RequestId> requests;

  RequestId insert(const std::vector<std::int32_t>& tokens) {
    const RequestId request = tree.insert(tokens).request;
    tree.commit(request, tree.seq_len(request));
    requests.push_back(request);
    return request;
  }
  void append(RequestId request, std::int32_t token) {
    tree.append(request, {&token, 1});
    tree.commit(request, tree.seq_len(request));
  }
  void remove(RequestId request) {
    tree.remove(request);
    std::erase(requests, request);
  }

  /// Nodes as (tokens, requests) pairs in depth-first order, after the attention of the state was found exact.
  std::vector<std::pair<int, int>> nodes() const {
    Batch batch;
    batch.page_size = 2;
    batch.num_pages = 32;
    for (const RequestId request : requests) {
      const auto table = tree.block_table(request);
      batch.tables.emplace_back(table.begin(), table.end());
      batch.seq_lens.push_back(tree.seq_len(request));
    }
    Options options;
    options.shuffle_pages = false;
    const Problem problem(batch, {2, 1, 8, DType::float32, DType::float32}, options);
    const Forest forest = Forest::from_tree(tree, requests);
    problem.expect_exact(forest);
    std::vector<std::pair<int, int>> result;
    for (const Node& node : forest.nodes()) {
      result.emplace_back(node.num_tokens, node.request_end - node.request_begin);
    }
    return result;
  }
};

TEST_F(ChunkAttentionTreeShort, InsertsAppendsAndRemovals) {
  using testing::ElementsAre;
  using testing::Pair;
  const RequestId first = insert({1, 2, 3, 4, 5});
  EXPECT_THAT(nodes(), ElementsAre(Pair(5, 1)));
  const RequestId second = insert({1, 2, 3, 4, 6});
  EXPECT_THAT(nodes(), ElementsAre(Pair(4, 2), Pair(1, 1), Pair(1, 1)));
  const RequestId prefix = insert({1, 2, 3, 4});  // ends where the two part: no chunk of its own
  EXPECT_THAT(nodes(), ElementsAre(Pair(4, 3), Pair(1, 1), Pair(1, 1)));
  const RequestId other = insert({1, 7});  // differs within the first chunk: a chunk of its own, sharing no page
  EXPECT_THAT(nodes(), ElementsAre(Pair(4, 3), Pair(1, 1), Pair(1, 1), Pair(2, 1)));
  const RequestId pair = insert({1, 2});
  EXPECT_THAT(nodes(), ElementsAre(Pair(2, 4), Pair(2, 3), Pair(1, 1), Pair(1, 1), Pair(2, 1)));
  const RequestId twin = insert({1, 2, 3, 4, 5});  // ChunkAttention never shares a leaf; here the twin shares it all
  EXPECT_THAT(nodes(), ElementsAre(Pair(2, 5), Pair(2, 4), Pair(1, 2), Pair(1, 1), Pair(2, 1)));

  for (const RequestId request : {second, prefix, other, pair, twin}) remove(request);
  EXPECT_THAT(nodes(), ElementsAre(Pair(5, 1)));
  const RequestId longer = insert({1, 2, 3, 4, 6, 7});
  append(first, 8);
  append(longer, 9);  // leaves [5, 8] and [6, 7] -> [9]: one node of three tokens, since one request holds it
  EXPECT_THAT(nodes(), ElementsAre(Pair(4, 2), Pair(2, 1), Pair(3, 1)));
  EXPECT_EQ(tree.block_table(first).size(), 3u);
  EXPECT_EQ(tree.block_table(longer).size(), 4u);
  remove(first);
  EXPECT_THAT(nodes(), ElementsAre(Pair(7, 1)));
}

}  // namespace
}  // namespace trunkline::grids
