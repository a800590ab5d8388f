#include "sim/result.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <filesystem>

namespace trunkline::sim {

using tools::Json;
using tools::summarize;

std::vector<StrategyResult> by_strategy(const std::vector<Strategy>& strategies,
                                        const std::vector<MeasuredStep>& steps) {
  std::vector<StrategyResult> results(strategies.size());
  double unshared_seconds = 0;
  for (std::size_t i = 0; i < strategies.size(); ++i) {
    StrategyResult& result = results[i];
    result.strategy = strategies[i];
    for (const MeasuredStep& step : steps) {
      const StrategyTimes& times = step.times.strategies[i];
      const double median = summarize(times.cold).median;
      result.cold.insert(result.cold.end(), times.cold.begin(), times.cold.end());
      result.plan.insert(result.plan.end(), times.plan.begin(), times.plan.end());
      result.floors.push_back(step.times.floor.seconds());
      result.ratios.push_back(median / result.floors.back());
      result.floor.read_seconds += step.times.floor.read_seconds;
      result.floor.compute_seconds += step.times.floor.compute_seconds;
      result.seconds += median;
      result.model_seconds += times.model_seconds;
      result.kv_bytes_read += static_cast<double>(times.kv_bytes_read);
      result.distinct_bytes += static_cast<double>(step.times.distinct_bytes);
      result.operations += step.times.operations;
      result.accuracy.merge(times.accuracy);
    }
    if (result.strategy == Strategy::unshared) unshared_seconds = result.seconds;
  }
  for (StrategyResult& result : results) result.speedup = unshared_seconds / result.seconds;
  return results;
}

Json row_json(const StrategyResult& result, const std::string& label, const MeasureOptions& options,
              const Attention& attention) {
  const auto steps = static_cast<double>(result.floors.size());
  Json row = {{"grid", "replay"},
              {"case", {{"trace", label}, {"sampled_steps", result.floors.size()}}},
              {"label", label},
              {"backend", options.backend},
              {"kernel", attention.kernel()},
              {"threads", attention.num_threads()},
              {"strategy", to_string(result.strategy)},
              {"dtype", to_string(options.shape.dtype)},
              {"heads", {options.shape.heads.qo, options.shape.heads.kv}},
              {"head_dim", options.shape.head_dim},
              {"page_size", options.shape.page_size},
              {"cold_us", tools::to_json(summarize(result.cold), 1e6)},
              {"floor_us", summarize(result.floors).median * 1e6},
              {"floor_bound", result.floor.bound()},
              {"ratio", summarize(result.ratios).median}};
  if (result.speedup > 0) row["speedup"] = result.speedup;
  row["distinct_bytes"] = result.distinct_bytes / steps;
  row["kv_bytes_read"] = result.kv_bytes_read / steps;
  row["operations"] = result.operations / steps;
  row["gbps"] = result.distinct_bytes / result.seconds * 1e-9;
  row["tflops"] = result.operations / result.seconds * 1e-12;
  row["plan_us"] = summarize(result.plan).median * 1e6;
  row["model_us"] = result.model_seconds / steps * 1e6;
  row["max_error"] = result.accuracy.max_error;
  row["error_bound"] = result.accuracy.error_bound;
  row["error_ratio"] = result.accuracy.worst;
  row["checked_rows"] = result.accuracy.rows;
  return row;
}

Json summary_json(const trace::Trace& trace, const Options& options, const Replayed& replayed) {
  const Totals& totals = replayed.totals;
  return {{"trace", std::filesystem::path(trace.path).filename().string()},
          {"format", trace::to_string(trace.format)},
          {"arrivals", describe_arrivals(options)},
          {"max_batch", options.max_batch},
          {"page_size", options.page_size},
          {"num_pages", options.num_pages},
          {"prefill_tokens_per_s", options.prefill_rate},
          {"decode_step_s", options.decode_step},
          {"requests", trace.requests.size()},
          {"requests_finished", totals.finished},
          {"trace_prompt_tokens", trace.num_prompt_tokens()},
          {"trace_output_tokens", trace.num_output_tokens()},
          {"steps", totals.steps},
          {"simulated_s", replayed.simulated_seconds()},
          {"simulation_s", replayed.seconds},
          {"prompt_tokens", totals.prompt_tokens},
          {"cached_tokens", totals.cached_tokens},
          {"hit_rate", totals.hit_rate()},
          {"prefilled_tokens", totals.prefilled_tokens},
          {"output_tokens", totals.output_tokens},
          {"evicted_pages", totals.evicted_pages},
          {"preemptions", totals.preemptions},
          {"forks", totals.forks},
          {"page_copies", totals.page_copies},
          {"mean_batch", replayed.mean_batch},
          {"largest_batch", replayed.largest_batch},
          {"mean_share", replayed.mean_share},
          {"p10_share", replayed.share.p10},
          {"median_share", replayed.share.median},
          {"p90_share", replayed.share.p90},
          {"tree_host_bytes", replayed.tree_bytes},
          {"verified_steps", totals.verified_steps}};
}

Json series_json(const Replayed& replayed, const std::vector<Strategy>& strategies,
                 const std::vector<MeasuredStep>& measured, const Options& options, std::int64_t token_bytes) {
  constexpr std::int64_t most_points = 1000;
  const auto count = static_cast<std::int64_t>(replayed.points.size());
  const std::int64_t stride = std::max<std::int64_t>(1, (count + most_points - 1) / most_points);
  Json series;
  for (const char* field : {"step", "time_s", "batch", "waiting", "total_kv_bytes", "distinct_kv_bytes", "share",
                            "pool_pages_used", "pool_pages_cached", "pool_pages_total", "hit_rate", "plan_us"}) {
    series[field] = Json::array();
  }
  series["strategy_us"] = Json::object();
  for (const Strategy strategy : strategies) series["strategy_us"][to_string(strategy)] = Json::array();

  for (std::int64_t i = 0; i < count; ++i) {
    const auto found =
        std::find_if(measured.begin(), measured.end(), [i](const MeasuredStep& step) { return step.index == i; });
    const StepTimes* times = found == measured.end() ? nullptr : &found->times;
    if (i % stride != 0 && !times) continue;
    const auto& [step, hit_rate] = replayed.points[static_cast<std::size_t>(i)];
    series["step"].push_back(i);
    series["time_s"].push_back(step.time);
    series["batch"].push_back(step.batch);
    series["waiting"].push_back(step.waiting);
    series["total_kv_bytes"].push_back(step.total_tokens * token_bytes);
    series["distinct_kv_bytes"].push_back(step.distinct_tokens * token_bytes);
    series["share"].push_back(step.share());
    series["pool_pages_used"].push_back(step.pages_used);
    series["pool_pages_cached"].push_back(step.pages_cached);
    series["pool_pages_total"].push_back(options.num_pages);
    series["hit_rate"].push_back(hit_rate);
    const auto median_us = [](const std::vector<double>& seconds) { return Json(summarize(seconds).median * 1e6); };
    series["plan_us"].push_back(times ? median_us(times->strategies[0].plan) : Json());
    for (std::size_t s = 0; s < strategies.size(); ++s) {
      series["strategy_us"][to_string(strategies[s])].push_back(times ? median_us(times->strategies[s].cold) : Json());
    }
  }
  return series;
}

}  // namespace trunkline::sim
