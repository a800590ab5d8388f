// The grids of ChunkAttention's ThunderKittens port: chunks of 64 tokens, head_dim 128, bf16, one query token each.
#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

#include "grids/harness.hpp"

namespace trunkline::grids {
namespace {

constexpr int chunk = 64;

Shape tk_shape(int heads) { return {heads, heads, 128, DType::bfloat16, DType::bfloat16}; }

/// Every chunk is shared by every sequence.
Batch all_shared(int sequences, int chunks) { return shared_prefix(sequences, chunks * chunk, 0, chunk); }

class TkChunkFirst : public testing::TestWithParam<std::tuple<Pattern, int, int, int>> {};
INSTANTIATE_TEST_SUITE_P(ThirtySix, TkChunkFirst,
                         testing::Combine(testing::Values(Pattern::normal, Pattern::normal_tenth),
                                          testing::Values(8, 16, 32), testing::Values(1, 4), testing::Values(1, 2, 4)));

TEST_P(TkChunkFirst, EveryStrategy) {
  const auto [pattern, sequences, heads, chunks] = GetParam();
  Options options;
  options.pattern = pattern;
  options.max_rows = 32;
  expect_exact(all_shared(sequences, chunks), tk_shape(heads), options);
}

/// 1680 cases: each of the 5 patterns and 7 numbers of sequences is a test of 48 shapes.
class TkWide : public testing::TestWithParam<std::tuple<Pattern, int>> {};
INSTANTIATE_TEST_SUITE_P(SixteenHundredAndEighty, TkWide,
                         testing::Combine(testing::Values(Pattern::normal, Pattern::small, Pattern::uniform,
                                                          Pattern::doubled, Pattern::positive),
                                          testing::Values(1, 2, 4, 8, 16, 24, 32)));

TEST_P(TkWide, EveryHeadAndChunkCount) {
  const auto [pattern, sequences] = GetParam();
  Options options;
  options.pattern = pattern;
  options.strategies = {Strategy::automatic};
  options.max_rows = 4;
  for (const int heads : {1, 2, 4, 8, 12, 16}) {
    for (const int chunks : {1, 2, 3, 4, 6, 8, 12, 16}) {
      SCOPED_TRACE(std::to_string(heads) + " heads, " + std::to_string(chunks) + " chunks");
      expect_exact(all_shared(sequences, chunks), tk_shape(heads), options);
      ++options.seed;
    }
  }
}

class TkPatternShort : public testing::TestWithParam<std::tuple<Pattern, unsigned>> {};
INSTANTIATE_TEST_SUITE_P(Patterns, TkPatternShort,
                         testing::Combine(testing::Values(Pattern::identity_v, Pattern::large, Pattern::negative,
                                                          Pattern::ones, Pattern::positive, Pattern::small,
                                                          Pattern::uniform, Pattern::zero_v),
                                          testing::Values(1u)));
INSTANTIATE_TEST_SUITE_P(Seeds, TkPatternShort,
                         testing::Combine(testing::Values(Pattern::normal), testing::Values(1u, 2u, 3u, 4u, 5u, 6u)));

TEST_P(TkPatternShort, SixteenSequences) {
  Options options;
  options.pattern = std::get<0>(GetParam());
  options.seed = std::get<1>(GetParam());
  expect_exact(all_shared(16, 2), tk_shape(1), options);
}

/// patterns x sequences x heads x chunks x shared chunks {none, half} x last chunk {full, half full}
class TkSequenceFirst : public testing::TestWithParam<std::tuple<Pattern, int, int, int, bool, bool>> {};
INSTANTIATE_TEST_SUITE_P(SixtyFour, TkSequenceFirst,
                         testing::Combine(testing::Values(Pattern::normal, Pattern::normal_tenth),
                                          testing::Values(1, 4), testing::Values(1, 4), testing::Values(2, 4),
                                          testing::Bool(), testing::Bool()));

TEST_P(TkSequenceFirst, EveryStrategy) {
  const auto [pattern, sequences, heads, chunks, half_shared, half_full] = GetParam();
  const int shared = half_shared ? chunks / 2 * chunk : 0;
  const int own = chunks * chunk - shared - (half_full ? chunk / 2 : 0);
  Options options;
  options.pattern = pattern;
  expect_exact(shared_prefix(sequences, shared, own, chunk), tk_shape(heads), options);
}

}  // namespace
}  // namespace trunkline::grids
