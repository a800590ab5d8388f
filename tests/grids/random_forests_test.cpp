// Random trees of prefixes, at token granularity, in random shapes: plans pass their check, results are exact.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <vector>

#include "grids/harness.hpp"

namespace trunkline::grids {
namespace {

int any(int low, int high) { return *rc::gen::inRange(low, high + 1); }

template <class T>
T one_of(const std::vector<T>& choices) {
  return *rc::gen::elementOf(choices);
}

Batch any_batch() {
  std::vector<Prefix> prefixes;
  const int num_prefixes = any(1, 24), longest = one_of<int>({1, 4, 20, 90});
  for (int i = 0; i < num_prefixes; ++i) prefixes.push_back({any(-1, i - 1), any(1, longest)});
  std::vector<int> ends;
  for (int requests = any(1, 20); requests > 0; --requests) ends.push_back(any(-1, num_prefixes - 1));
  Batch batch = batch_of(prefixes, ends, one_of<int>({1, 2, 3, 5, 8, 16, 64}));
  const int most_queries = one_of<int>({1, 1, 4, 40});
  for (const std::int32_t seq_len : batch.seq_lens) {
    batch.qo_lens.push_back(std::min(any(most_queries == 1 ? 1 : 0, most_queries), std::max(1, seq_len)));
  }
  return batch;
}

Shape any_shape() {
  const std::vector<DType> dtypes{DType::float32, DType::float16, DType::bfloat16};
  const int num_kv_heads = any(1, 3);
  const int head_dim = one_of<int>({1, 4, 16, 40, 64, 100, 128});
  const DType q_dtype = one_of(dtypes), kv_dtype = one_of(dtypes);
  return {num_kv_heads * any(1, 5), num_kv_heads, head_dim, q_dtype, kv_dtype};
}

Options any_options() {
  Options options;
  options.seed = static_cast<unsigned>(any(1, 1000000));
  options.pattern = one_of<Pattern>({Pattern::normal, Pattern::doubled, Pattern::positive, Pattern::large_scores});
  options.memory = one_of<Memory>({Memory::nhd, Memory::hnd, Memory::apart, Memory::padded});
  options.strategies = {one_of(every_strategy)};
  options.max_rows = 40;
  options.num_threads = any(1, 3);
  // Shipped costs, or none: then everything shared stays shared and work is split for its own sake.
  options.device = DeviceSpec::generic_cpu(one_of<int>({1, 2, 16}));
  if (any(0, 1) == 1) {
    options.device->wide.item_seconds = options.device->narrow.item_seconds = 0;
    options.device->merge_seconds = options.device->phase_seconds = options.device->launch_seconds = 0;
  }
  return options;
}

/// One random case at every SIMD target.
void expect_any_case_exact() {
  const Batch batch = any_batch();
  const Shape shape = any_shape();
  const Options options = any_options();
  RC_ASSERT(expect_exact(batch, shape, options) <= 1.0);
  RC_ASSERT(!testing::Test::HasFailure());
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
