// Thousands of small random forests: a fixed list, unlike those of RandomForests, so that a failure is there again.
#include <gtest/gtest.h>

#include <random>

#include "grids/random_case.hpp"

namespace trunkline::grids {
namespace {

constexpr int num_cases = 50;  // per seed

const std::vector<int> page_sizes{1, 2, 3, 5, 8, 12, 16, 24, 32, 64, 100, 128, 256, 1024};
const std::vector<Pattern> patterns{Pattern::normal,    Pattern::normal,  Pattern::doubled,     Pattern::positive,
                                    Pattern::uniform,   Pattern::small,   Pattern::large,       Pattern::large_scores,
                                    Pattern::far_below, Pattern::large_v, Pattern::half_masked, Pattern::rising};

Choices choices(std::vector<int> head_dims) {
  Choices result;
  result.page_sizes = page_sizes;
  result.head_dims = std::move(head_dims);
  result.group_sizes = {1, 1, 2, 3, 4, 5, 7, 8, 16, 64};
  result.q_dtypes = {DType::float16, DType::bfloat16};
  result.memories = every_memory;
  result.patterns = patterns;
  result.longest_prefixes = {1, 4, 20, 90, 300};
  result.num_workers = {0, 0, 1, 2, 16, 100};
  return result;
}

void expect_cases_exact(unsigned seed, const Choices& from) {
  std::mt19937 random(seed);
  const Any any = [&](int low, int high) {
    return low + static_cast<int>(random() % static_cast<unsigned>(high - low + 1));
  };
  for (int i = 0; i < num_cases; ++i) {
    const Case one = any_case(any, from);
    const Problem problem(one.batch, one.shape, one.options);
    const Verdict verdict = problem.judge(problem.forest());
    EXPECT_EQ(verdict.wrong, "") << "case " << i << ": " << describe(one);
  }
}

class BulkForests : public testing::TestWithParam<unsigned> {};
INSTANTIATE_TEST_SUITE_P(Seeds, BulkForests, testing::Range(1u, 97u));
TEST_P(BulkForests, Exact) { expect_cases_exact(GetParam(), choices({64, 128})); }

class BulkForestsShort : public testing::TestWithParam<unsigned> {};
INSTANTIATE_TEST_SUITE_P(Seeds, BulkForestsShort, testing::Range(1001u, 1003u));
TEST_P(BulkForestsShort, Exact) { expect_cases_exact(GetParam(), choices({64, 128})); }

class BulkForestsOf256 : public testing::TestWithParam<unsigned> {};
INSTANTIATE_TEST_SUITE_P(Seeds, BulkForestsOf256, testing::Range(2001u, 2009u));
TEST_P(BulkForestsOf256, Exact) { expect_cases_exact(GetParam(), choices({256})); }

}  // namespace
}  // namespace trunkline::grids
