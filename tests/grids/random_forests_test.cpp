// Random trees of prefixes, at token granularity, in random shapes: plans pass their check, results are exact.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "grids/random_case.hpp"

namespace trunkline::grids {
namespace {

Choices choices() {
  Choices result;
  result.page_sizes = {1, 2, 3, 5, 8, 16, 64};
  result.head_dims = {1, 4, 16, 40, 64, 100, 128};
  result.group_sizes = {1, 2, 3, 4, 5};
  result.q_dtypes = result.kv_dtypes = {DType::float32, DType::float16, DType::bfloat16};
  result.memories = every_memory;
  result.patterns = {Pattern::normal, Pattern::doubled, Pattern::positive, Pattern::large_scores};
  result.longest_prefixes = {1, 4, 20, 90};
  result.num_workers = {1, 2, 16};
  return result;
}

/// One random case on every target.
void expect_any_case_exact() {
  const Any any = [](int low, int high) { return *rc::gen::inRange(low, high + 1); };
  const Case one = any_case(any, choices());
  const Problem problem(one.batch, one.shape, one.options);
  const Verdict verdict = problem.judge(problem.forest());
  if (!verdict.wrong.empty()) RC_FAIL(describe(one) + ": " + verdict.wrong);
}

TEST(RandomForests, PlansCheckAndResultsAreExact) {
  EXPECT_TRUE(rc::check([] {
    for (int i = 0; i < 15; ++i) expect_any_case_exact();
  }));
}

TEST(RandomForestsShort, PlansCheckAndResultsAreExact) {
  EXPECT_TRUE(rc::check([] { expect_any_case_exact(); }));
}

}  // namespace
}  // namespace trunkline::grids
