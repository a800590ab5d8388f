// `trunkline replay`: a trace through a simulated engine, and the real attention of some of its decode steps.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <limits>
#include <memory>
#include <optional>

#include "commands/commands.hpp"
#include "common/exit_codes.hpp"
#include "common/forest_json.hpp"
#include "common/progress.hpp"
#include "common/result.hpp"
#include "common/table.hpp"
#include "common/validators.hpp"
#include "sim/result.hpp"
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

/// What to measure. Refuses what no attention can be made of, before long work begins.
sim::MeasureOptions measure_options(const Options& options) {
  sim::MeasureOptions measure;
  measure.shape.heads = parse_heads(options.heads);
  measure.shape.head_dim = options.head_dim;
  measure.shape.page_size = options.engine.page_size;
  measure.shape.dtype = dtype_from_string(options.dtype);
  measure.strategies = parse_strategies(options.strategies);
  measure.backend = options.backend.backend;
  measure.device = options.backend.device();
  measure.repeats = options.repeats;
  measure.check_rows = options.check_rows;
  measure.seed = options.seed;
  if (measure.device.kind != DeviceKind::cpu) {
    throw Error(ErrorCode::unsupported, "backend", "cpu: the simulated engine keeps its KV in the host's memory",
                options.backend.backend);
  }
  measure.execution = options.backend.execution();
  for (const Strategy strategy : measure.strategies) {
    Attention(config_of(measure.shape, strategy), Capacity{1, 1, 1}, measure.device, measure.execution);
  }
  return measure;
}

class Replay {
 public:
  explicit Replay(const Options& options)
      : options_(options),
        measure_(measure_options(options)),
        engine_(options.engine),
        memory_limit_(parse_bytes(options.memory_limit, "memory-limit")),
        page_bytes_(Problem::page_bytes(measure_.shape)),
        result_("replay", options.json),
        text_(text_stream(options.json)) {
    const std::int64_t pages =
        std::clamp<std::int64_t>(memory_limit_ / page_bytes_, 1, std::numeric_limits<int>::max());
    // CLI11 reads a flag's 0 as -1; what else is negative it has refused.
    engine_.verify_every = std::max<std::int64_t>(engine_.verify_every, 0);
    engine_.num_pages = options.num_pages.value_or(static_cast<std::int32_t>(pages));
  }

  void run() {
    std::optional<trace::Format> format;
    if (!options_.format.empty()) format = trace::format_from_string(options_.format);
    const trace::Trace trace = trace::read_trace(options_.trace, format, options_.max_requests);
    choose_arrivals(options_, trace.format, engine_);
    const sim::Replayed replayed = simulate(trace);
    result_["summary"] = sim::summary_json(trace, engine_, replayed);
    print_simulation(trace, replayed);
    if (!replayed.samples.empty()) measure(replayed);
    result_["series"] =
        sim::series_json(replayed, measure_.strategies, measured_, engine_, page_bytes_ / measure_.shape.page_size);
    result_.write();
    if (!accuracy_.ok()) {
      throw CheckFailed(
          fmt::format("an error of {:.3g} exceeded its bound of {:.3g}", accuracy_.max_error, accuracy_.error_bound));
    }
  }

 private:
  sim::Replayed simulate(const trace::Trace& trace) const {
    Progress progress("simulate", static_cast<std::int64_t>(trace.requests.size()));
    return sim::replay(trace, engine_, options_.samples, [&](std::int64_t finished) { progress.update(finished); });
  }

  void print_simulation(const trace::Trace& trace, const sim::Replayed& replayed) const;
  std::vector<sim::CompactBatch> compact(const std::vector<sim::Sample>& samples);
  void measure(const sim::Replayed& replayed);
  void report_strategies(const sim::Measure& measure);

  const Options& options_;
  const sim::MeasureOptions measure_;
  sim::Options engine_;
  const std::int64_t memory_limit_, page_bytes_;
  Result result_;
  std::FILE* text_;
  std::vector<sim::MeasuredStep> measured_;
  Accuracy accuracy_;
};

void Replay::print_simulation(const trace::Trace& trace, const sim::Replayed& replayed) const {
  const sim::Totals& totals = replayed.totals;
  fmt::print(text_, "trace      {} ({}): {} requests, {} prompt and {} output tokens\n", trace.path,
             trace::to_string(trace.format), trace.requests.size(), trace.num_prompt_tokens(),
             trace.num_output_tokens());
  fmt::print(text_, "engine     {}, at most {} together; prefill {:g} tokens/s, a decode step {}\n",
             describe_arrivals(engine_), engine_.max_batch, engine_.prefill_rate, format_seconds(engine_.decode_step));
  fmt::print(text_, "pool       {} pages of {} tokens, {} of KV a layer\n", engine_.num_pages, engine_.page_size,
             format_bytes(static_cast<double>(engine_.num_pages) * static_cast<double>(page_bytes_)));
  fmt::print(text_, "finished   {} requests, {} tokens in {} steps; {} simulated in {}\n", totals.finished,
             totals.output_tokens, totals.steps, format_seconds(replayed.simulated_seconds()),
             format_seconds(replayed.seconds));
  fmt::print(text_, "cache      {:.1f} % of prompt tokens hit; {} pages evicted, {} copied\n", totals.hit_rate() * 100,
             totals.evicted_pages, totals.page_copies);
  fmt::print(text_, "batch      {:.1f} requests a step, at most {}; {} preemptions, {} forks\n", replayed.mean_batch,
             replayed.largest_batch, totals.preemptions, totals.forks);
  fmt::print(text_, "share      mean {:.3f}, p10 {:.3f}, median {:.3f}, p90 {:.3f}\n", replayed.mean_share,
             replayed.share.p10, replayed.share.median, replayed.share.p90);
  if (engine_.verify_every > 0) {
    fmt::print(text_, "verified   tree and forest of {} steps\n", totals.verified_steps);
  }
}

/// The sampled batches, cut to what their KV memory may be.
std::vector<sim::CompactBatch> Replay::compact(const std::vector<sim::Sample>& samples) {
  const auto half = static_cast<std::int64_t>(available_memory() / 2);
  const std::int64_t limit = std::min(memory_limit_, half);
  std::vector<sim::CompactBatch> batches;
  Json& capped = result_["capped"] = Json::array();
  for (const sim::Sample& sample : samples) {
    const sim::CompactBatch& batch = batches.emplace_back(sample.forest, limit / page_bytes_);
    if (batch.num_left_out == 0) continue;
    const std::string why = limit == half ? "half of the free memory" : "--memory-limit";
    capped.push_back({{"step", sample.index}, {"left_out_requests", batch.num_left_out}, {"limit", limit}});
    fmt::print(text_, "capped     step {}: the newest {} of {} requests are left out, {} is {}\n", sample.index,
               batch.num_left_out, sample.forest.num_requests(), why, format_bytes(static_cast<double>(limit)));
    if (batch.num_requests() == 0) {
      throw Error(ErrorCode::invalid_argument, "memory-limit",
                  fmt::format("room for the KV of one request at step {}", sample.index),
                  format_bytes(static_cast<double>(limit)));
    }
  }
  return batches;
}

void Replay::measure(const sim::Replayed& replayed) {
  const auto batches = compact(replayed.samples);
  sim::Measure measure(measure_, batches);
  {
    Progress progress("measure", static_cast<std::int64_t>(batches.size()));
    for (std::size_t i = 0; i < batches.size(); ++i) {
      measured_.push_back({replayed.samples[i].index, measure.step(batches[i])});
      progress.update(static_cast<std::int64_t>(i) + 1);
    }
  }
  const auto most_shared = std::max_element(
      batches.begin(), batches.end(),
      [](const sim::CompactBatch& a, const sim::CompactBatch& b) { return a.forest.share() < b.forest.share(); });
  result_["forest"]["step"] = measured_[static_cast<std::size_t>(most_shared - batches.begin())].index;
  result_["forest"].update(to_json(most_shared->forest));
  result_["summary"]["kv_memory_bytes"] = measure.kv_memory_bytes();
  report_strategies(measure);
}

void Replay::report_strategies(const sim::Measure& measure) {
  double distinct = 0;
  for (const sim::MeasuredStep& step : measured_) distinct += static_cast<double>(step.times.distinct_bytes);
  fmt::print(text_,
             "attention  one layer, {} heads of {}, {}, {} threads, at {} steps; {} of distinct KV a step\n"
             "           random KV for the pages of these steps alone ({}), caches flushed before each run\n\n",
             to_string(measure_.shape.heads), measure_.shape.head_dim, to_string(measure_.shape.dtype),
             measure.attention(0).num_threads(), measured_.size(),
             format_bytes(distinct / static_cast<double>(measured_.size())),
             format_bytes(static_cast<double>(measure.kv_memory_bytes())));
  using enum Table::Align;
  Table table({{"strategy", left},
               {"median"},
               {"p10"},
               {"p90"},
               {"speed-up"},
               {"x floor"},
               {"KV read"},
               {"distinct GB/s"},
               {"plan"},
               {"model"},
               {"error/bound"}});
  const auto results = sim::by_strategy(measure_.strategies, measured_);
  for (std::size_t i = 0; i < results.size(); ++i) {
    const sim::StrategyResult& result = results[i];
    const Json row = sim::row_json(result, result_["summary"]["trace"], measure_, measure.attention(i));
    const Statistics cold = summarize(result.cold);
    table.add_row({to_string(result.strategy), format_seconds(cold.median), format_seconds(cold.p10),
                   format_seconds(cold.p90), result.speedup > 0 ? fmt::format("{:.2f}", result.speedup) : "-",
                   fmt::format("{:.2f}", row["ratio"].get<double>()), format_bytes(row["kv_bytes_read"].get<double>()),
                   fmt::format("{:.1f}", row["gbps"].get<double>()),
                   format_seconds(row["plan_us"].get<double>() * 1e-6),
                   format_seconds(row["model_us"].get<double>() * 1e-6), fmt::format("{:.2f}", result.accuracy.worst)});
    accuracy_.merge(result.accuracy);
    result_.set_device(measure.attention(i));
    result_.add_row(row);
  }
  table.print(text_);
}

void add_engine_options(CLI::App& command, Options& options) {
  sim::Options& engine = options.engine;
  const auto add = [&command](const char* name, auto& value, const char* help) {
    return command.add_option(name, value, help)->group("Simulated engine");
  };
  add("--time-scale", options.time_scale, "requests arrive at their time stamps times this [1 for Mooncake]");
  add("--concurrency", options.concurrency,
      "a closed loop of so many requests, or trees of thought, instead of time stamps [64 for RAGPulse, 4 for trees]");
  add("--max-batch", engine.max_batch, "requests that decode together at most")->capture_default_str();
  add("--num-pages", options.num_pages, "pages of the pool [what --memory-limit holds]");
  add("--page-size", engine.page_size, "tokens of a page")->capture_default_str();
  add("--prefill-rate", engine.prefill_rate, "prompt tokens per second, of those not cached")->capture_default_str();
  add("--decode-step", engine.decode_step, "seconds of a decode step")->capture_default_str();
  add("--max-steps", engine.max_steps, "end after so many decode steps [with the trace]");
  add("--max-requests", options.max_requests, "the first requests of the trace only [all]")->check(non_negative());
  command
      .add_flag("--verify{100}", engine.verify_every,
                "every 100 steps (--verify=N: N; 0: never) prove the tree's integrity, and that the forest equals one "
                "built anew")
      ->check(non_negative())
      ->group("Simulated engine");
}

void add_measure_options(CLI::App& command, Options& options) {
  const auto add = [&command](const char* name, auto& value, const char* help) {
    return command.add_option(name, value, help)->capture_default_str()->group("Measured attention");
  };
  add("--samples", options.samples, "decode steps to compute, evenly spaced")->check(CLI::Range(0, 10000));
  add("--repeats", options.repeats, "runs of each strategy per step")->check(CLI::Range(1, 100000));
  add("--check-rows", options.check_rows, "rows per step held against the reference")->check(CLI::Range(0, 1 << 30));
  add("--strategy", options.strategies, "auto, unshared, two_phase, hydragen, several or all");
  add("--heads", options.heads, "query heads / KV heads");
  add("--head-dim", options.head_dim, "elements of a head");
  add("--dtype", options.dtype, "of q, KV and out: f32, f16 or bf16");
  add("--memory-limit", options.memory_limit,
      "of the KV of a sampled step: the newest requests are left out beyond it");
  add("--seed", options.seed, "of KV and q")->check(non_negative());
}

}  // namespace

void add_replay_command(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("replay", "Replay a trace: continuous batching, prefix cache, attention of sampled steps");
  command->add_option("trace", options->trace, "Mooncake jsonl, RAGPulse folder or tree-of-thought jsonl")->required();
  command->add_option("--format", options->format, "mooncake, ragpulse or tree-of-thought [the file tells]");
  add_engine_options(*command, *options);
  add_measure_options(*command, *options);
  options->backend.add_to(*command);
  add_json_option(*command, options->json);
  command->callback([options] { Replay(*options).run(); });
}

}  // namespace trunkline::tools
