// `trunkline bench`: attention over given shapes, held against the floor of the machine.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <optional>

#include "commands/commands.hpp"
#include "common/bench_options.hpp"
#include "common/bench_row.hpp"
#include "common/floor.hpp"
#include "common/problem.hpp"
#include "common/progress.hpp"
#include "common/result.hpp"
#include "common/statistics.hpp"
#include "common/synthetic_batch.hpp"
#include "cuda/bench.hpp"
#include "trunkline/error.hpp"

namespace trunkline::tools {
namespace {

/// One strategy on one case: what runs, and the samples of its times in seconds.
struct Contender {
  Contender(const BenchOptions& options, const AttentionConfig& config, const Capacity& capacity)
      : strategy(config.strategy),
        attention(config, capacity, options.backend.device(), options.backend.execution()),
        workspace(attention) {}

  Strategy strategy;
  Attention attention;
  Workspace workspace;
  Accuracy accuracy;
  std::vector<double> plan, cold, warm;
};

/// One case of a grid with its batch, its memory and its contenders.
class Measurement {
 public:
  Measurement(const BenchOptions& options, const GridCase& shape, SyntheticBatch batch, FloorMeter& meter)
      : options_(options),
        shape_(shape),
        batch_(std::move(batch)),
        meter_(meter),
        forest_(batch_.forest()),
        problem_(options.problem_shape(shape), forest_.num_query_tokens(), batch_.num_pages(), options.seed) {
    problem_.poison_unused_slots(batch_.page_tokens);
    const Capacity capacity{batch_.num_requests(), static_cast<int>(forest_.num_query_tokens()),
                            std::max(batch_.max_pages, 1)};
    for (Strategy strategy : parse_strategies(options.strategies)) {
      contenders_.push_back(std::make_unique<Contender>(options, problem_.config(strategy), capacity));
    }
    extents_ = distinct_extents(forest_, problem_.kv.view);
    kv_bytes_ = total_bytes(extents_);
    const std::size_t q_bytes =
        static_cast<std::size_t>(problem_.q.shape[0] * problem_.q.shape[1] * problem_.q.shape[2]) *
        size_of(shape.dtype);
    for (const void* data : {problem_.q.data, problem_.out.data}) {
      extents_.push_back({static_cast<const std::byte*>(data), q_bytes});
    }
    extents_ = joined(std::move(extents_));
  }

  /// The result first: nothing that is wrong is timed without saying so.
  void check() {
    const Oracle oracle(problem_.computed(batch_.tables(), batch_.seq_lens, batch_.qo_lens), options_.check_rows,
                        options_.seed);
    for (auto& contender : contenders_) {
      plan(*contender);  // untimed: the first one also copies the whole block table
      problem_.poison_results();
      run(*contender);
      contender->accuracy = oracle.compare();
    }
  }

  /// Floor and contenders in turn, so that all see the same machine.
  void time(Progress& progress, std::int64_t& done) {
    for (int repeat = 0; repeat < options_.repeats; ++repeat) {
      matrix_rates_.push_back(meter_.matrix_rate());
      meter_.flush_caches();
      cold_reads_.push_back(meter_.read_seconds(extents_));
      warm_reads_.push_back(meter_.read_seconds(extents_));
      for (auto& contender : contenders_) {
        contender->plan.push_back(time_seconds([&] { plan(*contender); }));
        meter_.flush_caches();
        contender->cold.push_back(time_seconds([&] { run(*contender); }));
        contender->warm.push_back(time_seconds([&] { run(*contender); }));
        progress.update(++done, shape_.label());
      }
    }
  }

  Floor floor() const { return {summarize(cold_reads_).median, operations() / summarize(matrix_rates_).median}; }
  std::vector<std::unique_ptr<Contender>>& contenders() { return contenders_; }

  Json row(const Contender& contender, const std::string& grid) const {
    BenchRow row = bench_row(grid, shape_, options_, contender);
    row.read = summarize(cold_reads_);
    row.floor = floor();
    row.warm_floor_seconds = Floor{summarize(warm_reads_).median, row.floor.compute_seconds}.seconds();
    row.distinct_bytes = static_cast<double>(kv_bytes_);
    row.operations = operations();
    row.share = forest_.share();
    Json json = to_json(row);
    json["threads"] = contender.attention.num_threads();
    json["matrix_gflops"] = to_json(summarize(matrix_rates_), 1e-9);
    return json;
  }

 private:
  void plan(Contender& contender) const { contender.attention.plan(forest_, contender.workspace); }
  void run(Contender& contender) {
    contender.attention.run(contender.workspace, problem_.q, problem_.kv.view, problem_.out, problem_.lse);
  }

  double operations() const { return batch_.operations(shape_.heads.qo, shape_.head_dim); }

  const BenchOptions& options_;
  const GridCase& shape_;
  SyntheticBatch batch_;
  FloorMeter& meter_;
  Forest forest_;
  Problem problem_;
  std::vector<Extent> extents_;
  std::size_t kv_bytes_ = 0;
  std::vector<std::unique_ptr<Contender>> contenders_;
  std::vector<double> cold_reads_, warm_reads_, matrix_rates_;
};

Json describe_flush(const FloorMeter& meter) {
  const std::size_t cache = last_level_cache_bytes();
  return {{"bytes", meter.flush_bytes()},
          {"last_level_cache_bytes", cache},
          {"complete", cache > 0 && meter.flush_bytes() > cache}};
}

void run_cpu_bench(const BenchOptions& options) {
  const Grid grid = options.shape.cases();
  const auto strategies = parse_strategies(options.strategies);
  const PageOrder page_order = page_order_from_string(options.page_order);
  kv_layout_from_string(options.kv_layout);
  const auto max_bytes = options.max_bytes.empty() ? static_cast<std::int64_t>(available_memory() / 2)
                                                   : parse_bytes(options.max_bytes, "max-bytes");
  std::FILE* text = text_stream(options.json);

  Result result("bench", options.json);
  FloorMeter meter(options.backend.num_threads());
  result["flush"] = describe_flush(meter);
  Json skipped = Json::array();
  bool any_fits = grid.cases.empty();
  const auto complete = [&] {
    result["skipped"] = skipped;
    result["summary"] = summarize_bench(result["rows"]);
  };
  {
    Progress progress("bench", static_cast<std::int64_t>(grid.cases.size() * strategies.size()) * options.repeats);
    const Stopwatch watch;
    std::int64_t done = 0;
    for (const GridCase& shape : grid.cases) {
      SyntheticBatch batch(paths_of(shape), {shape.qo_len}, shape.page_size, page_order, options.seed);
      const std::int64_t bytes = batch.num_pages() * Problem::page_bytes(options.problem_shape(shape));
      const bool fits = bytes <= max_bytes;
      any_fits = any_fits || fits;
      if (!fits || options.is_over(watch.seconds())) {
        skipped.push_back(skipped_json(
            shape, fits ? "the time limit was reached"
                        : fmt::format("its KV takes {}, --max-bytes is {}", format_bytes(static_cast<double>(bytes)),
                                      format_bytes(static_cast<double>(max_bytes)))));
        done += static_cast<std::int64_t>(strategies.size()) * options.repeats;
        continue;
      }
      Measurement measurement(options, shape, std::move(batch), meter);
      measurement.check();
      measurement.time(progress, done);
      for (const auto& contender : measurement.contenders()) {
        result.set_device(contender->attention);
        result.add_row(measurement.row(*contender, grid.name));
      }
      complete();
      result.write_so_far();
    }
  }
  complete();
  print_bench_table(result["rows"], text);
  print_skipped(skipped, text);
  fmt::print(text, "cold: after reading {} (last-level cache {}); {} runs each\n",
             format_bytes(static_cast<double>(meter.flush_bytes())),
             format_bytes(static_cast<double>(last_level_cache_bytes())), options.repeats);
  result.write();
  require_correct(result["rows"]);
  if (!any_fits) {
    throw Error(ErrorCode::invalid_argument, "max-bytes", "room for at least one case",
                format_bytes(static_cast<double>(max_bytes)));
  }
}

void run_bench(BenchOptions options) {
  const bool on_cuda = options.backend.device().kind == DeviceKind::cuda;
  constexpr int cpu_repeats = 9, cuda_repeats = 50;
  if (options.repeats == 0) options.repeats = on_cuda ? cuda_repeats : cpu_repeats;
  if (on_cuda) return cuda::run_bench(options);
  if (options.host || options.layers > 0) {
    throw Error(ErrorCode::unsupported, options.host ? "host" : "layers", "--backend cuda", options.backend.backend);
  }
  run_cpu_bench(options);
}

}  // namespace

void add_bench_command(CLI::App& app) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* command = app.add_subcommand("bench", "Measure attention over shapes against the floor of this machine");
  options->add_to(*command);
  command->callback([options] { run_bench(*options); });
}

}  // namespace trunkline::tools
