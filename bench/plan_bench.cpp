// How long planning a decode step takes, with a plan's memory used again as between steps.
// Arguments of the first two: requests, tokens per request, percent of them shared by all.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <vector>

#include "trunkline/plan.hpp"

namespace {

using namespace trunkline;

constexpr int page_size = 16;

AttentionConfig config_of(int num_qo_heads, int num_kv_heads) {
  AttentionConfig config;
  config.num_qo_heads = num_qo_heads;
  config.num_kv_heads = num_kv_heads;
  config.head_dim = 128;
  config.page_size = page_size;
  return config;
}

/// Requests at the leaves of a tree: each level has `fan_out[l]` times the nodes of the one above, `tokens[l]` tokens
/// each.
Forest tree(const std::vector<int>& fan_out, const std::vector<int>& tokens) {
  int num_requests = 1;
  for (const int f : fan_out) num_requests *= f;
  std::vector<std::int32_t> entries, seq_lens;
  int width = 0;
  for (const int t : tokens) width += t / page_size;
  for (int r = 0; r < num_requests; ++r) {
    int below = num_requests, page = 0;  // requests below a node of the level, first page of the level
    for (std::size_t l = 0; l < fan_out.size(); ++l) {
      below /= fan_out[l];
      const int pages = tokens[l] / page_size;
      for (int p = 0; p < pages; ++p) entries.push_back(page + r / below * pages + p);
      page += num_requests / below * pages;
    }
    seq_lens.push_back(width * page_size);
  }
  return Forest::from_block_tables(BlockTables::dense(entries, num_requests, width), seq_lens, page_size);
}

Forest prefix(const benchmark::State& state) {
  const int shared = static_cast<int>(state.range(1) * state.range(2) / 100);
  return tree({1, static_cast<int>(state.range(0))}, {shared, static_cast<int>(state.range(1)) - shared});
}

void plan_again(benchmark::State& state, const Forest& forest, const DeviceSpec& device,
                const AttentionConfig& config) {
  const Planner planner(device, config);
  const PlanLimits limits = PlanLimits::of({forest.num_requests(), forest.num_requests(), 1 << 16}, config, device);
  Plan plan;
  for (auto _ : state) {
    planner.plan_into(plan, forest, limits);
    benchmark::DoNotOptimize(plan.items.data());
  }
  state.counters["items"] = static_cast<double>(plan.items.size());
  state.counters["model_us"] = plan.model.seconds * 1e6;
}

void BM_PlanH200(benchmark::State& state) { plan_again(state, prefix(state), DeviceSpec::h200(), config_of(32, 8)); }
BENCHMARK(BM_PlanH200)
    ->Args({256, 8192, 0})
    ->Args({256, 8192, 50})
    ->Args({1024, 32768, 0})
    ->Args({1024, 32768, 50})
    ->Unit(benchmark::kMicrosecond);

void BM_PlanCpu(benchmark::State& state) {
  plan_again(state, prefix(state), DeviceSpec::generic_cpu(2), config_of(32, 8));
}
BENCHMARK(BM_PlanCpu)->Args({32, 2048, 0})->Args({256, 8192, 50})->Unit(benchmark::kMicrosecond);

void BM_PlanDeepTreeH200(benchmark::State& state) {  // nine levels of 16 tokens, 1024 requests
  const int heads = static_cast<int>(state.range(0));
  plan_again(state, tree({1, 2, 2, 2, 2, 2, 2, 2, 8}, std::vector<int>(9, 16)), DeviceSpec::h200(),
             config_of(32, heads));
}
BENCHMARK(BM_PlanDeepTreeH200)->Arg(8)->Arg(32)->Unit(benchmark::kMicrosecond);

}  // namespace
