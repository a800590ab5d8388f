// Hydragen's grid: fp16, 8 query heads, 1 or 8 KV heads, head_dim 128, nested shared sequences of given lengths.
#include <gtest/gtest.h>

#include <tuple>
#include <vector>

#include "grids/harness.hpp"

namespace trunkline::grids {
namespace {

using Levels = std::vector<std::vector<int>>;

/// levels[i] are the lengths of the shared sequences of level i, spread evenly under those of level i - 1. Each of the
/// last level's is shared by two requests with three tokens of their own.
Batch nested(const Levels& levels, int page_size) {
  std::vector<Prefix> prefixes;
  std::vector<int> above{-1};
  for (const auto& lengths : levels) {
    std::vector<int> level;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      level.push_back(static_cast<int>(prefixes.size()));
      prefixes.push_back({above[i * above.size() / lengths.size()], lengths[i]});
    }
    above = level;
  }
  std::vector<int> ends;
  for (const int parent : above) {
    for (int i = 0; i < 2; ++i) {
      ends.push_back(static_cast<int>(prefixes.size()));
      prefixes.push_back({parent, 3});
    }
  }
  return batch_of(prefixes, ends, page_size);
}

class Hydragen : public testing::TestWithParam<std::tuple<Levels, int, int>> {};
INSTANTIATE_TEST_SUITE_P(Short, Hydragen,
                         testing::Combine(testing::Values(Levels{{1}, {10}}, Levels{{3}, {6, 6}}, Levels{{3}, {6, 7}},
                                                          Levels{{7, 7}, {9, 10, 11, 4}, {129, 2, 3, 4, 5, 6, 7, 128}}),
                                          testing::Values(1, 8), testing::Values(1, 16)));
INSTANTIATE_TEST_SUITE_P(Long, Hydragen,
                         testing::Combine(testing::Values(Levels{{16384}, {1, 128, 256}}), testing::Values(1, 8),
                                          testing::Values(1, 16)));

TEST_P(Hydragen, OneQueryToken) {
  const auto& [levels, num_kv_heads, page_size] = GetParam();
  Options options;
  options.max_rows = levels[0][0] > 1000 ? 16 : 0;
  expect_exact(nested(levels, page_size), {8, num_kv_heads, 128, DType::float16, DType::float16}, options);
}

TEST_P(Hydragen, TwoQueryTokens) {
  const auto& [levels, num_kv_heads, page_size] = GetParam();
  Batch batch = nested(levels, page_size);
  batch.qo_lens.assign(batch.seq_lens.size(), 2);
  Options options;
  options.max_rows = 16;
  options.memory = Memory::padded;
  expect_exact(batch, {8, num_kv_heads, 128, DType::float16, DType::float16}, options);
}

}  // namespace
}  // namespace trunkline::grids
