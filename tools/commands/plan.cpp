// `trunkline plan`: what the requests of a shape share, and what the planner makes of it.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "commands/commands.hpp"
#include "common/device_spec.hpp"
#include "common/forest_json.hpp"
#include "common/options.hpp"
#include "common/result.hpp"
#include "common/shape_options.hpp"
#include "common/statistics.hpp"
#include "common/synthetic_batch.hpp"
#include "common/validators.hpp"
#include "sim/simulation.hpp"
#include "trace/read.hpp"
#include "trunkline/error.hpp"

namespace trunkline::tools {
namespace {

struct Options {
  ShapeOptions shape;
  std::string trace;
  std::int64_t step = 100;
  sim::Options simulation;
  std::string strategies = "auto", device_spec = "cpu";
  int threads = 0, max_nodes = 40;
  std::string json;
};

/// The forest of decode step `step` of a trace, the first being 1.
Forest forest_of_trace(const Options& options) {
  const trace::Trace trace = trace::read_trace(options.trace);
  sim::Simulation simulation(trace, options.simulation);
  std::int64_t step = 0;
  while (step < options.step && simulation.step()) ++step;
  if (step < options.step) {
    throw Error(ErrorCode::invalid_argument, "step", fmt::format("at most {}, where the trace ends", step),
                std::to_string(options.step));
  }
  return simulation.forest();
}

void run_plan(const Options& options) {
  const auto strategies = parse_strategies(options.strategies);
  Result result("plan", options.json);
  GridCase shape = options.shape.cases().cases.front();
  if (!options.trace.empty()) shape.page_size = options.simulation.page_size;
  BackendOptions backend;
  backend.threads = options.threads;
  const DeviceSpec device = load_device_spec(options.device_spec, backend.num_threads());
  const Forest forest =
      options.trace.empty()
          ? SyntheticBatch(paths_of(shape), {shape.qo_len}, shape.page_size, PageOrder::sequential, 1).forest()
          : forest_of_trace(options);
  std::FILE* text = text_stream(options.json);
  result["device"] = {{"spec", to_json(device)}};
  result["forest"] = to_json(forest);
  print(forest, options.max_nodes, text);
  for (Strategy strategy : strategies) {
    AttentionConfig config;
    config.num_qo_heads = shape.heads.qo;
    config.num_kv_heads = shape.heads.kv;
    config.head_dim = shape.head_dim;
    config.page_size = shape.page_size;
    config.q_dtype = config.kv_dtype = shape.dtype;
    config.strategy = strategy;
    const Planner planner(device, config);
    Plan plan;
    const double seconds = time_seconds([&] { planner.plan_into(plan, forest); });
    fmt::print(text, "\n{}", plan.explain(forest));
    result.add_row({{"strategy", to_string(strategy)},
                    {"plan_us", seconds * 1e6},
                    {"model_us", plan.model.seconds * 1e6},
                    {"plan", Json::parse(plan.explain_json(forest))}});
  }
  result.write();
}

}  // namespace

void add_plan_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("plan", "Print the forest of a batch and the plan made of it");
  options->shape.add_to(*command, false);
  const std::string group = "Step of a trace";
  command->add_option("--trace", options->trace, "plan a decode step of this trace instead of a shape")
      ->excludes("--batch")
      ->excludes("--shared")
      ->excludes("--unique")
      ->group(group);
  command->add_option("--step", options->step, "which decode step, from 1")
      ->check(positive())
      ->capture_default_str()
      ->group(group);
  command->add_option("--num-pages,--pages", options->simulation.num_pages, "pages of the pool")
      ->capture_default_str()
      ->group(group);
  command->add_option("--max-batch", options->simulation.max_batch, "requests that decode together")
      ->capture_default_str()
      ->group(group);
  command
      ->add_option("--concurrency", options->simulation.concurrency, "closed loop of so many requests; 0: time stamps")
      ->capture_default_str()
      ->group(group);
  command->add_option("--strategy", options->strategies, "auto, unshared, two_phase, hydragen, several or all")
      ->capture_default_str();
  command
      ->add_option("--device-spec", options->device_spec,
                   "what to plan for: h200, cpu, measure, or a file written by `calibrate`")
      ->capture_default_str();
  command->add_option("--threads", options->threads, "cores of the cpu spec; default: every hardware thread")
      ->check(CLI::Range(1, 4096));
  command->add_option("--max-nodes", options->max_nodes, "nodes of the forest to print")
      ->check(non_negative())
      ->capture_default_str();
  add_json_option(*command, options->json);
  command->callback([options] { run_plan(*options); });
}

}  // namespace trunkline::tools
