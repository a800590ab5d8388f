// Every page size, memory, group size and shape of work that the CUDA kernels cover, at the edges of their tiles.
#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

#include "grids/harness.hpp"

namespace trunkline::grids {
namespace {

Shape shape_of(int num_kv_heads, int group_size, int head_dim, DType dtype = DType::bfloat16) {
  return {num_kv_heads * group_size, num_kv_heads, head_dim, dtype, dtype};
}

Options sampled(int max_rows, unsigned seed = 1) {
  Options options;
  options.max_rows = max_rows;
  options.seed = seed;
  return options;
}

class CudaPages : public testing::TestWithParam<std::tuple<int, Memory>> {};
INSTANTIATE_TEST_SUITE_P(Sizes, CudaPages,
                         testing::Combine(testing::Values(1, 2, 3, 5, 8, 12, 16, 24, 32, 64, 100, 128, 256, 1024),
                                          testing::ValuesIn(every_memory)));
TEST_P(CudaPages, OnATree) {
  const auto [page_size, memory] = GetParam();
  const Batch batch = uniform_tree({1, 2, 4}, {130, 67, 9}, page_size);
  for (const int head_dim : {64, 128, 256}) {
    SCOPED_TRACE(head_dim);
    Options options = sampled(24);
    options.memory = memory;
    options.free_of_costs = head_dim == 64;
    expect_exact(batch, shape_of(2, 4, head_dim, head_dim == 64 ? DType::float16 : DType::bfloat16), options);
  }
}

class CudaHeadDims : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(MultiplesOf16, CudaHeadDims, testing::Range(16, 257, 16));
TEST_P(CudaHeadDims, OnATree) {
  for (const DType dtype : {DType::float16, DType::bfloat16}) {
    for (const Memory memory : {Memory::nhd, Memory::padded}) {
      Options options = sampled(32);
      options.memory = memory;
      expect_exact(uniform_tree({1, 2, 20}, {130, 67, 9}, 16), shape_of(2, 4, GetParam(), dtype), options);
    }
  }
}

class CudaGroups : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Sizes, CudaGroups, testing::Range(1, 65));
TEST_P(CudaGroups, SharedAndOwn) {
  expect_exact(shared_prefix(4, 140, 11, 8), shape_of(2, GetParam(), 64), sampled(48));
  Batch batch = shared_prefix(3, 150, 40, 16);
  batch.qo_lens = {5, 1, 33};
  expect_exact(batch, shape_of(1, GetParam(), 128, DType::float16), sampled(48));
}

/// As many rows as requests share the node, at the edges of 8, 16, 32, 64, 128 and 256 rows.
class CudaRows : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Short, CudaRows, testing::Values(1, 2, 7, 8, 9, 15, 16, 17, 33));
INSTANTIATE_TEST_SUITE_P(Many, CudaRows,
                         testing::Values(31, 32, 47, 48, 63, 64, 65, 95, 127, 128, 129, 191, 192, 193, 255, 256, 257,
                                         300, 520));
TEST_P(CudaRows, OverPrefixesOfEveryLength) {
  for (const int shared : {1, 63, 64, 65, 128, 300}) {
    SCOPED_TRACE(shared);
    Options options = sampled(24, static_cast<unsigned>(shared));
    options.free_of_costs = shared % 2 == 1;
    expect_exact(shared_prefix(GetParam(), shared, 3, 1), shape_of(1, 1, 128), options);
    expect_exact(shared_prefix(GetParam(), shared, 3, 16), shape_of(2, 1, 64, DType::float16), options);
  }
}

/// Lengths of one request at the edges of the stages of KV.
TEST(CudaLengthsShort, OfEveryRequest) {
  std::vector<int> lengths;
  for (int length = 0; length <= 200; length += length < 10 || length % 32 > 28 || length % 32 < 3 ? 1 : 5) {
    lengths.push_back(length);
  }
  for (const int page_size : {1, 8, 16, 64}) {
    SCOPED_TRACE(page_size);
    expect_exact(unshared(lengths, page_size), shape_of(1, 4, 128), sampled(0));
  }
}

class CudaQueryTokens : public testing::TestWithParam<std::tuple<int, int>> {};
INSTANTIATE_TEST_SUITE_P(Lengths, CudaQueryTokens,
                         testing::Combine(testing::Values(1, 2, 3, 5, 16, 31, 64, 127, 128, 129, 200),
                                          testing::Values(1, 4, 8)));
TEST_P(CudaQueryTokens, OverASharedPrefix) {
  const auto [qo_len, group_size] = GetParam();
  Batch batch = shared_prefix(3, 96, 200, 16);
  batch.qo_lens = {qo_len, std::max(1, qo_len / 2), qo_len};
  expect_exact(batch, shape_of(2, group_size, 128), sampled(32));
  Batch same = shared_prefix(5, 210, 0, 16);  // causal masks within a shared node
  same.qo_lens = {1, qo_len, std::max(1, qo_len - 1), 1, qo_len};
  expect_exact(same, shape_of(1, group_size, 64, DType::float16), sampled(32));
}

TEST(CudaQueryTokensShort, WholePromptsAndNone) {
  Batch batch = shared_prefix(6, 48, 20, 16);
  batch.qo_lens = {68, 0, 20, 5, 2, 68};
  expect_exact(batch, shape_of(2, 4, 128), sampled(64));
}

/// Requests of few tokens and rows, of which kernels may take several KV heads at once: (page size, query tokens,
/// requests).
class CudaShortItems : public testing::TestWithParam<std::tuple<int, int, int>> {
 protected:
  /// Of lengths up to a little more than two tiles, every one where there are 140 requests.
  static Batch batch() {
    const auto [page_size, qo_len, num_requests] = GetParam();
    std::vector<int> lengths;
    for (int i = 0; i < num_requests; ++i) lengths.push_back((i * 37 + 20) % 140 + 1);
    Batch batch = unshared(lengths, page_size);
    for (const int length : lengths) batch.qo_lens.push_back(std::min(length, qo_len));
    return batch;
  }
};
INSTANTIATE_TEST_SUITE_P(Short, CudaShortItems, testing::Values(std::tuple(16, 1, 5), std::tuple(8, 2, 5)));
INSTANTIATE_TEST_SUITE_P(Sizes, CudaShortItems,
                         testing::Combine(testing::Values(1, 8, 16, 24, 32, 64, 128), testing::Values(1, 2, 4),
                                          testing::Values(140)));
TEST_P(CudaShortItems, OfSeveralHeads) {
  for (const int group_size : {1, 2, 3, 4}) {
    SCOPED_TRACE(group_size);
    expect_exact(batch(), shape_of(5, group_size, group_size % 2 == 0 ? 128 : 64), sampled(300));
  }
}
TEST_P(CudaShortItems, OfScoresFarFromZero) {
  for (const Pattern pattern : {Pattern::far_below, Pattern::rising, Pattern::large_scores, Pattern::half_masked}) {
    for (const DType dtype : {DType::float16, DType::bfloat16}) {
      Options options = sampled(100);
      options.pattern = pattern;
      expect_exact(batch(), shape_of(7, 1, 128, dtype), options);
    }
  }
}
TEST_P(CudaShortItems, OfFewerTokensThanPlanned) {
  const Batch short_ones = batch();
  Options options = sampled(300);
  for (std::size_t i = 0; i < short_ones.seq_lens.size(); ++i) {
    options.device_seq_lens.push_back(short_ones.seq_lens[i] * static_cast<int>(i % 4) / 3);
  }
  expect_exact(short_ones, shape_of(8, 1, 128), options);
  expect_exact(short_ones, shape_of(3, 2, 64, DType::float16), options);
}

/// What the device says of the lengths: less than planned, nothing, or less than the shared prefix.
class CudaSeqLens : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Short, CudaSeqLens, testing::Values(1, 5));
TEST_P(CudaSeqLens, BelowThePlannedOnes) {
  Batch batch = shared_prefix(8, 130, 70, 16);
  batch.qo_lens.assign(8, GetParam());
  Options options = sampled(64);
  options.device_seq_lens = {200, 199, 196, 131, 130, 64, 1, 0};
  for (const bool free_of_costs : {false, true}) {
    options.free_of_costs = free_of_costs;
    expect_exact(batch, shape_of(2, 4, 128), options);
    expect_exact(batch, shape_of(1, 1, 64, DType::float16), options);
  }
  options.device_seq_lens = {60, 59, 56, 31, 30, 14, 1, 0};  // all of them within the shared prefix
  expect_exact(batch, shape_of(2, 4, 128), options);
  options.device_seq_lens.assign(8, 0);
  expect_exact(batch, shape_of(2, 4, 128), options);
}

class CudaValues : public testing::TestWithParam<std::tuple<Pattern, DType>> {};
INSTANTIATE_TEST_SUITE_P(Short, CudaValues,
                         testing::Combine(testing::Values(Pattern::identity_v, Pattern::large, Pattern::negative,
                                                          Pattern::ones, Pattern::positive, Pattern::small,
                                                          Pattern::uniform, Pattern::zero_v, Pattern::large_scores,
                                                          Pattern::large_v, Pattern::far_below, Pattern::half_masked,
                                                          Pattern::rising),
                                          testing::Values(DType::float16, DType::bfloat16)));
TEST_P(CudaValues, FewAndManyRows) {
  const auto [pattern, dtype] = GetParam();
  for (const int num_requests : {3, 80}) {
    Options options = sampled(48);
    options.pattern = pattern;
    options.free_of_costs = num_requests == 80;
    expect_exact(shared_prefix(num_requests, 200, 30, 16), shape_of(1, 2, 128, dtype), options);
    expect_exact(shared_prefix(num_requests, 70, 5, 3), shape_of(1, 2, 64, dtype), options);
  }
}

/// Grids of few workers have long lists each; many workers mostly none.
class CudaWorkers : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Short, CudaWorkers, testing::Values(1, 2, 3, 64, 131));
TEST_P(CudaWorkers, OnAForest) {
  Options options = sampled(64);
  options.num_workers = GetParam();
  expect_exact(uniform_tree({2, 4, 40}, {200, 50, 17}, 16), shape_of(2, 4, 128), options);
  options.free_of_costs = true;
  expect_exact(uniform_tree({2, 4, 40}, {200, 50, 17}, 16), shape_of(2, 4, 64), options);
}

}  // namespace
}  // namespace trunkline::grids
