// `trunkline replay`: a trace through a simulated engine, and the real attention of some of its decode steps.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>

#include "commands/commands.hpp"
#include "common/exit_codes.hpp"
#include "common/forest_json.hpp"
#include "common/progress.hpp"
#include "common/result.hpp"
#include "common/statistics.hpp"
#include "common/table.hpp"
#include "sim/measure.hpp"
#include "sim/sampler.hpp"
#include "sim/simulation.hpp"
#include "trace/read.hpp"
#include "trunkline/error.hpp"

namespace trunkline::tools {
namespace {

struct Options {
  std::string trace, format;
  std::size_t max_requests = 0;
  sim::Options engine;
  std::optional<int> concurrency;
  std::optional<double> time_scale;
  std::optional<std::int32_t> num_pages;
  std::string memory_limit = "4GiB";
  int samples = 3, repeats = 5, check_rows = 64;
  std::string heads = "32/8", dtype = "bf16", strategies = "all";
  int head_dim = 128;
  BackendOptions backend;
  std::uint64_t seed = 1;
  std::string json;
};

/// One decode step as the report draws it.
struct Point {
  sim::Step step;
  double hit_rate = 0;  // so far
};

/// What the simulation left behind.
struct Replayed {
  std::vector<Point> points;  // one per step
  sim::Totals totals;
  std::vector<sim::Sample> samples;
  double seconds = 0;
  std::int64_t tree_bytes = 0;
};

/// Traces whose time stamps say nothing of an engine's load (RAGPulse: a request in 85 s; trees: none) run in a closed
/// loop unless the caller says how.
void choose_arrivals(const Options& options, trace::Format format, sim::Options& engine) {
  constexpr int ragpulse_concurrency = 64, tree_concurrency = 4;
  if (options.concurrency && options.time_scale) {
    throw Error(ErrorCode::invalid_argument, "concurrency", "--concurrency or --time-scale, not both", "both");
  }
  engine.concurrency = options.concurrency.value_or(0);
  engine.time_scale = options.time_scale.value_or(1.0);
  if (options.concurrency || options.time_scale) return;
  if (format == trace::Format::ragpulse) engine.concurrency = ragpulse_concurrency;
  if (format == trace::Format::tree_of_thought) engine.concurrency = tree_concurrency;
}

Replayed simulate(const trace::Trace& trace, const sim::Options& engine, int num_samples) {
  Replayed replayed;
  sim::Simulation simulation(trace, engine);
  sim::StepSampler sampler(num_samples);
  Progress progress("simulate", static_cast<std::int64_t>(trace.requests.size()));
  const Stopwatch watch;
  while (simulation.step()) {
    sampler.see(simulation);
    const sim::Totals totals = simulation.totals();
    replayed.points.push_back({simulation.current(), totals.hit_rate()});
    progress.update(totals.finished);
  }
  replayed.seconds = watch.seconds();
  replayed.totals = simulation.totals();
  replayed.tree_bytes = simulation.tree().memory_bytes();
  replayed.samples = sampler.take();
  return replayed;
}

/// One strategy over all sampled steps.
struct StrategyResult {
  Strategy strategy = Strategy::automatic;
  std::vector<double> cold, plan;         // of all steps and repeats
  std::vector<double> ratios;             // per step, to the floor
  double seconds = 0, model_seconds = 0;  // sums over steps, of medians
  double kv_bytes_read = 0, distinct_bytes = 0, operations = 0;
  Accuracy accuracy;
};

std::vector<StrategyResult> by_strategy(const std::vector<Strategy>& strategies,
                                        const std::vector<sim::StepTimes>& steps) {
  std::vector<StrategyResult> results(strategies.size());
  for (std::size_t i = 0; i < strategies.size(); ++i) {
    StrategyResult& result = results[i];
    result.strategy = strategies[i];
    for (const sim::StepTimes& step : steps) {
      const sim::StrategyTimes& times = step.strategies[i];
      const double median = summarize(times.cold).median;
      result.cold.insert(result.cold.end(), times.cold.begin(), times.cold.end());
      result.plan.insert(result.plan.end(), times.plan.begin(), times.plan.end());
      result.ratios.push_back(median / step.floor.seconds());
      result.seconds += median;
      result.model_seconds += times.model_seconds;
      result.kv_bytes_read += static_cast<double>(times.kv_bytes_read);
      result.distinct_bytes += static_cast<double>(step.distinct_bytes);
      result.operations += step.operations;
      result.accuracy.merge(times.accuracy);
    }
  }
  return results;
}

/// A run: options in, result out.
class Replay {
 public:
  explicit Replay(const Options& options) : options_(options), result_("replay"), text_(text_stream(options.json)) {
    shape_.heads = parse_heads(options.heads);
    shape_.head_dim = options.head_dim;
    shape_.page_size = options.engine.page_size;
    shape_.dtype = dtype_from_string(options.dtype);
    strategies_ = parse_strategies(options.strategies);
    options.backend.device();
    memory_limit_ = parse_bytes(options.memory_limit, "memory-limit");
    engine_ = options.engine;
    engine_.num_pages = 1;  // until the page size is known to be good
    engine_.validate();
    AttentionConfig config;
    config.num_qo_heads = shape_.heads.qo;
    config.num_kv_heads = shape_.heads.kv;
    config.head_dim = shape_.head_dim;
    config.page_size = shape_.page_size;
    config.q_dtype = config.kv_dtype = shape_.dtype;
    config.validate();
    page_bytes_ = Problem::page_bytes(shape_);
    engine_.num_pages = options.num_pages.value_or(static_cast<std::int32_t>(
        std::clamp<std::int64_t>(memory_limit_ / page_bytes_, 1, std::numeric_limits<std::int32_t>::max())));
  }

  void run() {
    std::optional<trace::Format> format;
    if (!options_.format.empty()) format = trace::format_from_string(options_.format);
    const trace::Trace trace = trace::read_trace(options_.trace, format, options_.max_requests);
    choose_arrivals(options_, trace.format, engine_);
    const Replayed replayed = simulate(trace, engine_, options_.samples);
    report_simulation(trace, replayed);
    if (!replayed.samples.empty()) measure(replayed);
    result_["series"] = series(replayed);
    result_.write(options_.json);
    if (!accuracy_.ok()) {
      throw CheckFailed(
          fmt::format("an error of {:.3g} exceeded its bound of {:.3g}", accuracy_.max_error, accuracy_.error_bound));
    }
  }

 private:
  void report_simulation(const trace::Trace& trace, const Replayed& replayed);
  std::vector<sim::CompactBatch> compact(const Replayed& replayed);
  void measure(const Replayed& replayed);
  void report_measurement(const sim::Measure& measure, const std::vector<StrategyResult>& results);
  Json row(const StrategyResult& result, const Attention& attention, double unshared_seconds) const;
  Json series(const Replayed& replayed) const;
  std::int64_t token_bytes() const { return page_bytes_ / shape_.page_size; }

  const Options& options_;
  Result result_;
  std::FILE* text_;
  ProblemShape shape_;
  std::vector<Strategy> strategies_;
  std::int64_t memory_limit_ = 0, page_bytes_ = 0;
  sim::Options engine_;
  std::vector<std::int64_t> measured_;  // indices of the sampled steps
  std::vector<sim::StepTimes> times_;   // of each
  Accuracy accuracy_;
};

void Replay::report_simulation(const trace::Trace& trace, const Replayed& replayed) {
  const sim::Totals& totals = replayed.totals;
  std::vector<double> shares;
  double batches = 0, shares_sum = 0;
  int largest_batch = 0;
  for (const Point& point : replayed.points) {
    shares.push_back(point.step.share());
    shares_sum += shares.back();
    batches += point.step.batch;
    largest_batch = std::max(largest_batch, point.step.batch);
  }
  const double steps = std::max(1.0, static_cast<double>(replayed.points.size()));
  const Statistics share = summarize(shares);
  const double simulated = replayed.points.empty() ? 0 : replayed.points.back().step.time;
  const std::string arrivals = engine_.concurrency > 0 ? fmt::format("closed loop of {}", engine_.concurrency)
                                                       : fmt::format("by time stamps x {:g}", engine_.time_scale);

  Json& summary = result_["summary"];
  summary = {{"trace", std::filesystem::path(trace.path).filename().string()},
             {"format", trace::to_string(trace.format)},
             {"arrivals", arrivals},
             {"max_batch", engine_.max_batch},
             {"page_size", engine_.page_size},
             {"num_pages", engine_.num_pages},
             {"prefill_tokens_per_s", engine_.prefill_rate},
             {"decode_step_s", engine_.decode_step},
             {"requests", trace.requests.size()},
             {"requests_finished", totals.finished},
             {"trace_prompt_tokens", trace.num_prompt_tokens()},
             {"trace_output_tokens", trace.num_output_tokens()},
             {"steps", totals.steps},
             {"simulated_s", simulated},
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
             {"mean_batch", batches / steps},
             {"max_batch_seen", largest_batch},
             {"mean_share", shares_sum / steps},
             {"median_share", share.median},
             {"p10_share", share.p10},
             {"p90_share", share.p90},
             {"tree_host_bytes", replayed.tree_bytes},
             {"verified_steps", totals.verified_steps}};

  fmt::print(text_, "trace      {} ({}): {} requests, {} prompt and {} output tokens\n", trace.path,
             trace::to_string(trace.format), trace.requests.size(), trace.num_prompt_tokens(),
             trace.num_output_tokens());
  fmt::print(text_, "engine     {}, at most {} together; {} pages of {} tokens ({} of KV a layer)\n", arrivals,
             engine_.max_batch, engine_.num_pages, engine_.page_size,
             format_bytes(static_cast<double>(engine_.num_pages) * static_cast<double>(page_bytes_)));
  fmt::print(text_, "           prefill {:g} tokens/s, a decode step {}\n", engine_.prefill_rate,
             format_seconds(engine_.decode_step));
  fmt::print(text_, "finished   {} requests, {} tokens in {} steps, {} simulated in {}\n", totals.finished,
             totals.output_tokens, totals.steps, format_seconds(simulated), format_seconds(replayed.seconds));
  fmt::print(text_, "cache      {:.1f} % of prompt tokens hit; {} pages evicted, {} copied\n", totals.hit_rate() * 100,
             totals.evicted_pages, totals.page_copies);
  fmt::print(text_, "batch      {:.1f} requests a step, at most {}; {} preemptions, {} forks\n", batches / steps,
             largest_batch, totals.preemptions, totals.forks);
  fmt::print(text_, "share      mean {:.3f}, p10 {:.3f}, median {:.3f}, p90 {:.3f}\n", shares_sum / steps, share.p10,
             share.median, share.p90);
  if (totals.verified_steps > 0) {
    fmt::print(text_, "verified   tree and forest of {} steps\n", totals.verified_steps);
  }
}

/// The sampled batches, cut to what their KV memory may be.
std::vector<sim::CompactBatch> Replay::compact(const Replayed& replayed) {
  const auto available = static_cast<std::int64_t>(available_memory() / 2);
  const std::int64_t limit = std::min(memory_limit_, available);
  std::vector<sim::CompactBatch> batches;
  Json& capped = result_["capped"] = Json::array();
  for (const sim::Sample& sample : replayed.samples) {
    batches.emplace_back(sample.forest, limit / page_bytes_);
    if (batches.back().num_left_out == 0) continue;
    capped.push_back({{"step", sample.index}, {"left_out_requests", batches.back().num_left_out}});
    fmt::print(text_, "capped     step {}: the {} newest of {} requests left out, KV in {} ({})\n", sample.index,
               batches.back().num_left_out, sample.forest.num_requests(), format_bytes(static_cast<double>(limit)),
               limit == available ? "half of the free memory" : "--memory-limit");
    if (batches.back().num_requests() == 0) {
      throw Error(ErrorCode::invalid_argument, "memory-limit", "room for the KV of one request at least",
                  format_bytes(static_cast<double>(limit)));
    }
  }
  return batches;
}

void Replay::measure(const Replayed& replayed) {
  const auto batches = compact(replayed);
  sim::MeasureOptions measure_options{shape_,           strategies_,         options_.backend,
                                      options_.repeats, options_.check_rows, options_.seed};
  sim::Measure measure(measure_options, batches);
  const sim::CompactBatch* most_shared = nullptr;
  Json& forest = result_["forest"];
  {
    Progress progress("measure", static_cast<std::int64_t>(batches.size()));
    for (std::size_t i = 0; i < batches.size(); ++i) {
      times_.push_back(measure.step(batches[i]));
      measured_.push_back(replayed.samples[i].index);
      progress.update(static_cast<std::int64_t>(i) + 1);
      if (most_shared && most_shared->forest.share() >= batches[i].forest.share()) continue;
      most_shared = &batches[i];
      forest = {{"step", replayed.samples[i].index}};
    }
  }
  forest.update(to_json(most_shared->forest));
  report_measurement(measure, by_strategy(strategies_, times_));
}

Json Replay::row(const StrategyResult& result, const Attention& attention, double unshared_seconds) const {
  std::vector<double> floors;
  for (const sim::StepTimes& step : times_) floors.push_back(step.floor.seconds());
  double share_total = 0;
  for (const sim::StepTimes& step : times_) share_total += step.operations;
  const double steps = static_cast<double>(times_.size());
  Json row;
  row["label"] = fmt::format("{} sampled steps", times_.size());
  row["backend"] = options_.backend.backend;
  row["kernel"] = attention.kernel();
  row["threads"] = attention.num_threads();
  row["strategy"] = to_string(result.strategy);
  row["dtype"] = to_string(shape_.dtype);
  row["heads"] = {shape_.heads.qo, shape_.heads.kv};
  row["head_dim"] = shape_.head_dim;
  row["page_size"] = shape_.page_size;
  row["cold_us"] = to_json(summarize(result.cold), 1e6);
  row["floor_us"] = summarize(floors).median * 1e6;
  row["ratio"] = summarize(result.ratios).median;
  if (unshared_seconds > 0) row["speedup"] = unshared_seconds / result.seconds;
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

void Replay::report_measurement(const sim::Measure& measure, const std::vector<StrategyResult>& results) {
  double unshared_seconds = 0;
  for (const StrategyResult& result : results) {
    if (result.strategy == Strategy::unshared) unshared_seconds = result.seconds;
  }
  using enum Table::Align;
  Table table({{"strategy", left},
               {"median"},
               {"p10"},
               {"p90"},
               {"speed-up"},
               {"x floor"},
               {"KV read"},
               {"GB/s distinct"},
               {"plan"},
               {"model"},
               {"error/bound"}});
  for (std::size_t i = 0; i < results.size(); ++i) {
    const StrategyResult& result = results[i];
    const Json json = row(result, measure.attention(i), unshared_seconds);
    const Statistics cold = summarize(result.cold);
    table.add_row(
        {to_string(result.strategy), format_seconds(cold.median), format_seconds(cold.p10), format_seconds(cold.p90),
         unshared_seconds > 0 ? fmt::format("{:.2f}", json["speedup"].get<double>()) : "-",
         fmt::format("{:.2f}", json["ratio"].get<double>()), format_bytes(json["kv_bytes_read"].get<double>()),
         fmt::format("{:.1f}", json["gbps"].get<double>()), format_seconds(json["plan_us"].get<double>() * 1e-6),
         format_seconds(json["model_us"].get<double>() * 1e-6), fmt::format("{:.2f}", result.accuracy.worst)});
    accuracy_.merge(result.accuracy);
    result_.set_device(measure.attention(i));
    result_.add_row(json);
  }
  double distinct = 0;
  for (const sim::StepTimes& step : times_) distinct += static_cast<double>(step.distinct_bytes);
  fmt::print(text_,
             "attention  one layer, {} heads of {}, {}, at {} sampled steps, {} threads: {} distinct KV a step\n"
             "           random KV for the pages of these steps only ({}); caches flushed before each run\n",
             to_string(shape_.heads), shape_.head_dim, to_string(shape_.dtype), times_.size(),
             measure.attention(0).num_threads(), format_bytes(distinct / static_cast<double>(times_.size())),
             format_bytes(static_cast<double>(measure.kv_memory_bytes())));
  table.print(text_);
  result_["summary"]["kv_memory_bytes"] = measure.kv_memory_bytes();
}

/// Up to about a thousand steps, evenly spaced, and the measured ones; null where a step was not measured.
Json Replay::series(const Replayed& replayed) const {
  constexpr std::int64_t most_points = 1000;
  const auto count = static_cast<std::int64_t>(replayed.points.size());
  const std::int64_t stride = std::max<std::int64_t>(1, (count + most_points - 1) / most_points);
  Json series;
  for (const char* field : {"step", "time_s", "batch", "waiting", "total_kv_bytes", "distinct_kv_bytes", "share",
                            "pool_pages_used", "pool_pages_cached", "pool_pages_total", "hit_rate", "plan_us"}) {
    series[field] = Json::array();
  }
  Json& strategy_us = series["strategy_us"] = Json::object();
  for (const Strategy strategy : strategies_) strategy_us[to_string(strategy)] = Json::array();
  for (std::int64_t i = 0; i < count; ++i) {
    const auto measured = std::find(measured_.begin(), measured_.end(), i);
    if (i % stride != 0 && measured == measured_.end()) continue;
    const Point& point = replayed.points[static_cast<std::size_t>(i)];
    const sim::Step& step = point.step;
    series["step"].push_back(i);
    series["time_s"].push_back(step.time);
    series["batch"].push_back(step.batch);
    series["waiting"].push_back(step.waiting);
    series["total_kv_bytes"].push_back(step.total_tokens * token_bytes());
    series["distinct_kv_bytes"].push_back(step.distinct_tokens * token_bytes());
    series["share"].push_back(step.share());
    series["pool_pages_used"].push_back(step.pages_used);
    series["pool_pages_cached"].push_back(step.pages_cached);
    series["pool_pages_total"].push_back(engine_.num_pages);
    series["hit_rate"].push_back(point.hit_rate);
    const sim::StepTimes* times =
        measured == measured_.end() ? nullptr : &times_[static_cast<std::size_t>(measured - measured_.begin())];
    series["plan_us"].push_back(times ? Json(summarize(times->strategies[0].plan).median * 1e6) : Json());
    for (std::size_t s = 0; s < strategies_.size(); ++s) {
      strategy_us[to_string(strategies_[s])].push_back(times ? Json(summarize(times->strategies[s].cold).median * 1e6)
                                                             : Json());
    }
  }
  return series;
}

void add_engine_options(CLI::App& command, Options& options) {
  sim::Options& engine = options.engine;
  const auto add = [&command](const char* name, auto& value, const char* help) {
    return command.add_option(name, value, help)->group("Simulated engine");
  };
  add("--time-scale", options.time_scale, "requests arrive at their time stamps times this [1; Mooncake]");
  add("--concurrency", options.concurrency,
      "a closed loop of so many requests, or trees of thought, instead of time stamps [64 for RAGPulse, 4 for trees]");
  add("--max-batch", engine.max_batch, "requests that decode together at most")->capture_default_str();
  add("--num-pages", options.num_pages, "pages of the pool [what --memory-limit holds]");
  add("--page-size", engine.page_size, "tokens of a page")->capture_default_str();
  add("--prefill-rate", engine.prefill_rate, "prompt tokens per second, of those not cached")->capture_default_str();
  add("--decode-step", engine.decode_step, "seconds of a decode step")->capture_default_str();
  add("--max-steps", engine.max_steps, "end after so many decode steps [0: with the trace]");
  add("--max-requests", options.max_requests, "use the first requests of the trace only [0: all]");
  command
      .add_flag("--verify{100}", engine.verify_every,
                "every 100 steps (--verify=N: N) prove the tree's integrity, and that the forest equals one built anew")
      ->group("Simulated engine");
}

}  // namespace

void add_replay_command(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "replay",
      "Replay a trace of requests: continuous batching, prefix cache, and the attention of sampled decode steps");
  command->add_option("trace", options->trace, "Mooncake jsonl, RAGPulse folder or tree-of-thought jsonl")->required();
  command->add_option("--format", options->format, "mooncake, ragpulse or tree-of-thought [told by the file]");
  add_engine_options(*command, *options);
  const auto add = [&](const char* name, auto& value, const char* help) {
    return command->add_option(name, value, help)->group("Measured attention");
  };
  add("--samples", options->samples, "decode steps to compute, evenly spaced")
      ->check(CLI::Range(0, 10000))
      ->capture_default_str();
  add("--repeats", options->repeats, "runs of each strategy per step")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  add("--check-rows", options->check_rows, "rows per step held against the reference")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  add("--strategy", options->strategies, "auto, unshared, two_phase, hydragen, several or all")->capture_default_str();
  add("--heads", options->heads, "query heads / KV heads")->capture_default_str();
  add("--head-dim", options->head_dim, "elements of a head")->capture_default_str();
  add("--dtype", options->dtype, "of q, KV and out: f32, f16 or bf16")->capture_default_str();
  add("--memory-limit", options->memory_limit, "of the KV of a sampled step; newest requests are left out beyond it")
      ->capture_default_str();
  add("--seed", options->seed, "of KV and q")->capture_default_str();
  options->backend.add_to(*command);
  add_json_option(*command, options->json);
  command->callback([options] { Replay(*options).run(); });
}

}  // namespace trunkline::tools
