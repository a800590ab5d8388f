// Sizes as they are served, on sampled rows.
#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <tuple>
#include <vector>

#include "grids/harness.hpp"

namespace trunkline::grids {
namespace {

Shape shape_of(int num_qo_heads, int num_kv_heads, int head_dim = 128, DType dtype = DType::bfloat16) {
  return {num_qo_heads, num_kv_heads, head_dim, dtype, dtype};
}

Options sampled(int max_rows, std::vector<Strategy> strategies = every_strategy) {
  Options options;
  options.max_rows = max_rows;
  options.strategies = std::move(strategies);
  return options;
}

/// (requests, shared, own, query heads, KV heads)
class CudaLargeDecode : public testing::TestWithParam<std::tuple<int, int, int, int, int>> {};
INSTANTIATE_TEST_SUITE_P(Shapes, CudaLargeDecode,
                         testing::Values(std::tuple(16, 1024, 128, 32, 8), std::tuple(16, 4096, 256, 32, 8),
                                         std::tuple(64, 4096, 256, 32, 8), std::tuple(64, 16384, 0, 32, 8),
                                         std::tuple(128, 4096, 512, 64, 8), std::tuple(32, 2048, 64, 32, 32),
                                         std::tuple(128, 1024, 512, 32, 32), std::tuple(32, 0, 1088, 32, 32),
                                         std::tuple(16, 32768, 256, 32, 8)));
TEST_P(CudaLargeDecode, SampledRows) {
  const auto [requests, shared, own, num_qo_heads, num_kv_heads] = GetParam();
  const Batch batch = shared > 0 ? shared_prefix(requests, shared, own, 16)
                                 : unshared(std::vector<int>(static_cast<std::size_t>(requests), own), 16);
  expect_exact(batch, shape_of(num_qo_heads, num_kv_heads), sampled(24));
}

class CudaManyRequests : public testing::TestWithParam<Strategy> {};
INSTANTIATE_TEST_SUITE_P(Strategies, CudaManyRequests, testing::ValuesIn(every_strategy));
TEST_P(CudaManyRequests, FourThousandOnATree) {
  expect_exact(uniform_tree({1, 8, 64, 4096}, {300, 90, 40, 17}, 16), shape_of(16, 4), sampled(128, {GetParam()}));
}
TEST_P(CudaManyRequests, FourThousandOfTheirOwn) {
  std::mt19937 random(3);
  std::vector<int> lengths(4096);
  for (int& length : lengths) length = static_cast<int>(random() % 100);
  expect_exact(unshared(lengths, 16), shape_of(8, 2, 64), sampled(256, {GetParam()}));
}
TEST_P(CudaManyRequests, FourThousandIdentical) {
  expect_exact(shared_prefix(4096, 777, 0, 32), shape_of(8, 8, 128, DType::float16), sampled(64, {GetParam()}));
}

TEST(CudaLongRequest, AMillionTokens) {
  expect_exact(unshared({1000003}, 16), shape_of(8, 1, 64), sampled(2, {Strategy::automatic, Strategy::unshared}));
}
TEST(CudaLongRequest, AMillionTokensBesideShortOnes) {
  expect_exact(unshared({5, 1 << 20, 300, 1, 17}, 64), shape_of(4, 1), sampled(3, {Strategy::automatic}));
}
TEST(CudaLongRequest, PagesOfOneToken) {
  expect_exact(shared_prefix(3, 100000, 1000, 1), shape_of(8, 2), sampled(6, {Strategy::automatic}));
}

/// (query tokens of each request, requests) over a shared prefix of 16 Ki tokens.
class CudaChunkedPrefill : public testing::TestWithParam<std::tuple<int, int>> {};
INSTANTIATE_TEST_SUITE_P(Lengths, CudaChunkedPrefill,
                         testing::Values(std::tuple(16, 8), std::tuple(128, 4), std::tuple(512, 2),
                                         std::tuple(2048, 1)));
TEST_P(CudaChunkedPrefill, OverASharedPrefix) {
  const auto [qo_len, requests] = GetParam();
  Batch batch = shared_prefix(requests, 16384, qo_len, 16);
  batch.qo_lens.assign(static_cast<std::size_t>(requests), qo_len);
  expect_exact(batch, shape_of(32, 8), sampled(16, {Strategy::automatic, Strategy::hydragen}));
}
TEST(CudaPrefill, WholePromptsThatShare) {
  Batch batch = shared_prefix(4, 700, 333, 64);
  batch.qo_lens.assign(4, 1033);
  expect_exact(batch, shape_of(8, 2), sampled(64));
}

/// A chain of so many nodes, with a request that leaves it at every one.
class CudaChains : public testing::TestWithParam<std::tuple<int, Strategy, bool>> {};
INSTANTIATE_TEST_SUITE_P(Depths, CudaChains,
                         testing::Combine(testing::Values(20, 100, 300), testing::ValuesIn(every_strategy),
                                          testing::Bool()));
/// Merges of more sources than a warp has lanes.
INSTANTIATE_TEST_SUITE_P(Short, CudaChains, testing::Values(std::tuple(70, Strategy::automatic, true)));
TEST_P(CudaChains, OfSmallNodes) {
  const auto [depth, strategy, free_of_costs] = GetParam();
  std::vector<Prefix> prefixes;
  std::vector<int> ends;
  for (int i = 0; i < depth; ++i) {
    prefixes.push_back({i == 0 ? -1 : 2 * (i - 1), 1 + i % 7});
    prefixes.push_back({2 * i, 1 + i % 5});
    ends.push_back(2 * i + 1);
  }
  Options options = sampled(96, {strategy});
  options.free_of_costs = free_of_costs;
  expect_exact(batch_of(prefixes, ends, 1), shape_of(4, 1), options);
}
TEST(CudaDeepTrees, NineLevels) {
  const std::vector<int> nodes{1, 2, 4, 8, 16, 32, 64, 128, 256}, tokens(9, 100);
  expect_exact(uniform_tree(nodes, tokens, 16), shape_of(32, 8), sampled(96));
}
TEST(CudaDeepTrees, ManyRoots) {
  expect_exact(uniform_tree({64, 256, 1024}, {60, 33, 18}, 16), shape_of(8, 2, 64, DType::float16), sampled(96));
}

/// A beam search or speculative decode as it is served: a tree, several query tokens each, other lengths on the device.
TEST(CudaServed, SpeculativeDecodeOnATree) {
  Batch batch = uniform_tree({2, 8, 128}, {1500, 200, 60}, 16);
  batch.qo_lens.assign(128, 5);
  Options options = sampled(96);
  std::mt19937 random(5);
  for (const std::int32_t seq_len : batch.seq_lens) {
    options.device_seq_lens.push_back(seq_len - static_cast<std::int32_t>(random() % 5));
  }
  expect_exact(batch, shape_of(32, 8), options);
}

}  // namespace
}  // namespace trunkline::grids
