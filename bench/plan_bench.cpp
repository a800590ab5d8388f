// How long planning a decode step takes, with a plan's memory used again as between steps.
// Arguments, but for the deep tree: requests, tokens per request, percent of them shared by all.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <utility>
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

/// A decode step as an engine makes it: every request has one more token, the forest advances, the plan is made into
/// the spare one of two. Lengths are spread over a page, so in every step some requests need a page.
void BM_StepH200(benchmark::State& state) {
  const auto num_requests = static_cast<std::int32_t>(state.range(0)),
             tokens = static_cast<std::int32_t>(state.range(1));
  const std::int32_t shared_pages = static_cast<std::int32_t>(tokens * state.range(2) / 100 / page_size);
  const std::int32_t width = tokens / page_size + 2;
  std::vector<std::int32_t> entries(static_cast<std::size_t>(num_requests) * width, 0), seq_lens;
  std::int32_t next_page = shared_pages;
  for (std::int32_t r = 0; r < num_requests; ++r) {
    seq_lens.push_back(tokens + r % page_size);
    for (std::int32_t p = 0; p * page_size < seq_lens[r]; ++p) {
      entries[static_cast<std::size_t>(r) * width + p] = p < shared_pages ? p : next_page++;
    }
  }
  const Planner planner(DeviceSpec::h200(), config_of(32, 8));
  const PlanLimits limits = PlanLimits::of({num_requests, num_requests, 1 << 16}, planner.config(), planner.device());
  const Forest first = Forest::from_block_tables(BlockTables::dense(entries, num_requests, width), seq_lens, page_size);
  Forest forest = first;
  Plan plan, spare;
  Deltas deltas;
  for (std::int32_t r = 0; r < num_requests; ++r) deltas.grow.push_back({r, 1, {}});
  int step = 0;
  for (auto _ : state) {
    state.PauseTiming();
    if (++step % 1024 == 0) forest = first;  // not without end
    for (std::int32_t r = 0; r < num_requests; ++r) {
      deltas.grow[r].pages.assign(forest.seq_lens()[r] % page_size == 0, next_page++);
    }
    state.ResumeTiming();
    forest.advance(deltas);
    planner.plan_into(spare, forest, limits);
    std::swap(plan, spare);
    benchmark::DoNotOptimize(plan.items.data());
  }
  state.counters["items"] = static_cast<double>(plan.items.size());
}
BENCHMARK(BM_StepH200)
    ->Args({256, 8192, 0})
    ->Args({256, 8192, 50})
    ->Args({256, 8192, 97})
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
