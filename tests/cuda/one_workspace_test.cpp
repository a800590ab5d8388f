// One workspace serves forest after forest: nothing of an earlier plan, table or launch shows in a later one.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <tuple>

#include "grids/random_case.hpp"

namespace trunkline::grids {
namespace {

constexpr int page_size = 16, most_requests = 40, most_query_tokens = 40 * 40, most_pages = 200;

AttentionConfig config_of(const Shape& shape, Strategy strategy) {
  AttentionConfig config;
  config.num_qo_heads = shape.num_qo_heads;
  config.num_kv_heads = shape.num_kv_heads;
  config.head_dim = shape.head_dim;
  config.page_size = page_size;
  config.q_dtype = shape.q_dtype;
  config.kv_dtype = shape.kv_dtype;
  config.strategy = strategy;
  return config;
}

Case next_case(std::mt19937& random, const Shape& shape) {
  Choices choices;
  choices.page_sizes = {page_size};
  choices.head_dims = {shape.head_dim};
  choices.group_sizes = {1};
  choices.q_dtypes = {shape.q_dtype};
  choices.memories = every_memory;
  choices.patterns = {Pattern::normal};
  choices.longest_prefixes = {1, 20, 130};
  choices.max_requests = most_requests;
  choices.num_workers = {0};
  const Any any = [&](int low, int high) {
    return low + static_cast<int>(random() % static_cast<unsigned>(high - low + 1));
  };
  Case one = any_case(any, choices);
  one.shape = shape;
  return one;
}

class CudaOneWorkspace : public testing::TestWithParam<std::tuple<int, Strategy>> {};
INSTANTIATE_TEST_SUITE_P(Short, CudaOneWorkspace,
                         testing::Combine(testing::Values(64, 128), testing::ValuesIn(every_strategy)));
TEST_P(CudaOneWorkspace, ForestAfterForest) {
  const auto [head_dim, strategy] = GetParam();
  const Shape shape{8, 2, head_dim, DType::bfloat16, DType::bfloat16};
  for (const Target& target : targets(shape)) {
    SCOPED_TRACE(target.name);
    const Attention attention(config_of(shape, strategy), {most_requests, most_query_tokens, most_pages}, target.device,
                              target.execution);
    Workspace workspace(attention);
    std::mt19937 random(7);
    for (int step = 0; step < 40; ++step) {
      const Case one = next_case(random, shape);
      ASSERT_LE(one.batch.max_pages(), most_pages);
      const Problem problem(one.batch, one.shape, one.options);
      const Verdict verdict = problem.judge(problem.forest(), attention, workspace);
      ASSERT_EQ(verdict.wrong, "") << "step " << step << ": " << describe(one);
    }
  }
}

}  // namespace
}  // namespace trunkline::grids
