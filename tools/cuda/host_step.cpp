#include "cuda/host_step.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <vector>

#include "common/bench_row.hpp"
#include "common/result.hpp"
#include "common/statistics.hpp"
#include "common/synthetic_batch.hpp"
#include "common/table.hpp"
#include "cuda/facts.hpp"
#include "cuda/problem.hpp"
#include "cuda/runtime.hpp"

namespace trunkline::tools::cuda {
namespace {

constexpr int default_layers = 32;
constexpr int host_warm_ups = 20, host_steps = 200;
constexpr int device_warm_ups = 3, device_steps = 20;  // whole steps: up to 50 ms each
constexpr int all_steps = host_warm_ups + host_steps + device_warm_ups + device_steps;

/// The case's requests, their lengths spread over a page so that every step some need a page.
std::vector<Path> spread_paths(const GridCase& shape) {
  auto paths = paths_of(shape);
  for (std::size_t request = 0; request < paths.size(); ++request) {
    paths[request].back().tokens += static_cast<int>(request) % shape.page_size;
  }
  return paths;
}

/// What an engine would report of each step: every request has one more token.
class Growth {
 public:
  explicit Growth(const SyntheticBatch& batch) : page_size_(batch.page_size), lengths_(batch.seq_lens) {
    for (std::size_t page = 0; page < batch.page_tokens.size(); ++page) {
      if (batch.page_tokens[page] == 0) free_.push_back(static_cast<std::int32_t>(page));
    }
  }
  const Deltas& next() {
    deltas_.grow.resize(lengths_.size());
    for (std::size_t request = 0; request < lengths_.size(); ++request) {
      Deltas::Growth& growth = deltas_.grow[request];
      growth.request = static_cast<RequestId>(request);
      growth.num_tokens = 1;
      growth.pages.clear();
      if (lengths_[request]++ % page_size_ != 0) continue;
      growth.pages.push_back(free_.back());
      free_.pop_back();
    }
    return deltas_;
  }

 private:
  int page_size_;
  std::vector<std::int32_t> lengths_, free_;
  Deltas deltas_;
};

class HostStep {
 public:
  HostStep(const BenchOptions& options, const GridCase& shape)
      : options_(options),
        shape_(shape),
        layers_(options.layers > 0 ? options.layers : default_layers),
        pages_to_grow_((all_steps + shape.page_size - 1) / shape.page_size + 1),
        batch_(spread_paths(shape), {1}, shape.page_size, page_order_from_string(options.page_order), options.seed,
               pages_to_grow_ * shape.num_requests()),
        problem_(options.problem_shape(shape), batch_, 1, options.seed) {}

  Json measure(const ExecutionOptions& execution, Strategy strategy) {
    const Capacity capacity{batch_.num_requests(), batch_.num_requests(), batch_.max_pages + pages_to_grow_};
    const Attention attention(problem_.config(strategy), capacity, Device{DeviceKind::cuda, 0}, execution);
    Workspace workspace(attention);
    Forest forest = batch_.forest();
    Growth growth(batch_);
    attention.plan(forest, workspace, {stream_});
    stream_.synchronize();
    const Graph graph(stream_, [&] {
      for (int layer = 0; layer < layers_; ++layer) {
        attention.run(workspace, problem_.q, problem_.kv(), problem_.out, problem_.lse, {stream_});
      }
    });
    std::vector<double> advances, plans, steps;
    const auto step = [&](bool timed, bool launch) {
      const Deltas& deltas = growth.next();
      const Stopwatch watch;
      forest.advance(deltas);
      const double advanced = watch.seconds();
      attention.plan(forest, workspace, {stream_});
      const double planned = watch.seconds();
      if (launch) graph.launch(stream_);
      if (!timed) return;
      advances.push_back(advanced);
      plans.push_back(planned - advanced);
      steps.push_back(planned);
    };
    for (int i = 0; i < host_warm_ups + host_steps; ++i) {
      step(i >= host_warm_ups, false);
      stream_.synchronize();
    }
    const auto per_step = [&](auto&& body) {
      for (int i = 0; i < device_warm_ups; ++i) body();
      stream_.synchronize();
      const Stopwatch watch;
      for (int i = 0; i < device_steps; ++i) body();
      stream_.synchronize();
      return watch.seconds() / device_steps;
    };
    // Short enough that the stream's queue never fills up, which would make the host wait for the device.
    constexpr int bursts = 40, burst = 50;
    std::vector<double> runs;
    for (int i = 0; i < bursts; ++i) {
      stream_.synchronize();
      const Stopwatch watch;
      for (int k = 0; k < burst; ++k) {
        attention.run(workspace, problem_.q, problem_.kv(), problem_.out, problem_.lse, {stream_});
      }
      runs.push_back(watch.seconds() / burst);
    }
    const double planned = per_step([&] { step(false, true); });
    const double launched = per_step([&] { graph.launch(stream_); });
    return {{"case", shape_.fields},
            {"label", shape_.label()},
            {"kernel", attention.kernel()},
            {"strategy", to_string(strategy)},
            {"advance_us", to_json(summarize(advances), 1e6)},
            {"plan_us", to_json(summarize(plans), 1e6)},
            {"host_us", to_json(summarize(steps), 1e6)},
            {"run_us", to_json(summarize(runs), 1e6)},
            {"layers", layers_},
            {"step_us", planned * 1e6},
            {"step_without_planning_us", launched * 1e6}};
  }

 private:
  const BenchOptions& options_;
  const GridCase& shape_;
  int layers_, pages_to_grow_;
  SyntheticBatch batch_;
  DeviceProblem problem_;
  Stream stream_;
};

}  // namespace

void measure_host_step(const BenchOptions& options) {
  const Grid grid = options.shape.cases();
  const auto executions = options.backend.executions();
  const auto strategies = parse_strategies(options.strategies);
  std::FILE* text = text_stream(options.json);
  Result result("host", options.json);
  for (const GridCase& shape : grid.cases) {
    HostStep host_step(options, shape);
    for (const ExecutionOptions& execution : executions) {
      for (const Strategy strategy : strategies) {
        result.add_row(host_step.measure(execution, strategy));
      }
    }
  }
  result["device"] = {{"backend", "cuda"}, {"gpu", gpu_json()}};
  using enum Table::Align;
  Table table({{"requests x tokens", left},
               {"kernel", left},
               {"strategy", left},
               {"advance us"},
               {"plan us"},
               {"both us"},
               {"p90"},
               {"run us"},
               {"layers"},
               {"step us"},
               {"without planning"}});
  const auto number = [](const Json& value) { return fmt::format("{:.1f}", value.get<double>()); };
  for (const Json& row : result["rows"]) {
    table.add_row({row["label"], row["kernel"], row["strategy"], number(row["advance_us"]["median"]),
                   number(row["plan_us"]["median"]), number(row["host_us"]["median"]), number(row["host_us"]["p90"]),
                   number(row["run_us"]["median"]), std::to_string(row["layers"].get<int>()), number(row["step_us"]),
                   number(row["step_without_planning_us"])});
  }
  table.print(text);
  result.write();
}

}  // namespace trunkline::tools::cuda
