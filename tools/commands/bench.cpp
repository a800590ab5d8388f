// `trunkline bench`: attention over given shapes, held against the floor of the machine.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <optional>

#include "commands/commands.hpp"
#include "common/exit_codes.hpp"
#include "common/floor.hpp"
#include "common/options.hpp"
#include "common/problem.hpp"
#include "common/progress.hpp"
#include "common/result.hpp"
#include "common/shape_options.hpp"
#include "common/statistics.hpp"
#include "common/synthetic_batch.hpp"
#include "common/table.hpp"
#include "trunkline/error.hpp"

namespace trunkline::tools {
namespace {

struct Options {
  ShapeOptions shape;
  BackendOptions backend;
  std::string strategies = "auto,unshared";
  std::string page_order = "random", kv_layout = "nhd";
  std::string max_bytes;  // default: half of the available memory
  int repeats = 9, check_rows = 16;
  std::uint64_t seed = 1;
  std::string json;
};

/// One strategy on one case: what runs, and the samples of its times in seconds.
struct Contender {
  Contender(const Options& options, const AttentionConfig& config, const Capacity& capacity)
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
  Measurement(const Options& options, const GridCase& shape, SyntheticBatch batch, FloorMeter& meter)
      : options_(options),
        shape_(shape),
        batch_(std::move(batch)),
        meter_(meter),
        forest_(batch_.forest()),
        problem_({shape.heads, shape.head_dim, shape.page_size, shape.dtype, kv_layout_from_string(options.kv_layout)},
                 forest_.num_query_tokens(), batch_.num_pages(), options.seed) {
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
    const Statistics cold = summarize(contender.cold), warm = summarize(contender.warm);
    const Floor bound = floor();
    const double warm_floor = Floor{summarize(warm_reads_).median, bound.compute_seconds}.seconds();
    Json row;
    row["grid"] = grid;
    row["case"] = shape_.fields;
    row["label"] = shape_.label();
    row["backend"] = options_.backend.backend;
    row["kernel"] = contender.attention.kernel();
    row["threads"] = contender.attention.num_threads();
    row["strategy"] = to_string(contender.strategy);
    row["dtype"] = to_string(shape_.dtype);
    row["page_size"] = shape_.page_size;
    row["page_order"] = options_.page_order;
    row["kv_layout"] = options_.kv_layout;
    row["cold_us"] = to_json(cold, 1e6);
    row["warm_us"] = to_json(warm, 1e6);
    row["floor_us"] = bound.seconds() * 1e6;
    row["floor_bound"] = bound.bound();
    row["read_us"] = to_json(summarize(cold_reads_), 1e6);
    row["matrix_gflops"] = to_json(summarize(matrix_rates_), 1e-9);
    row["ratio"] = cold.median / bound.seconds();
    row["warm_floor_us"] = warm_floor * 1e6;
    row["warm_ratio"] = warm.median / warm_floor;
    row["distinct_bytes"] = kv_bytes_;
    row["operations"] = operations();
    row["gbps"] = static_cast<double>(kv_bytes_) / cold.median * 1e-9;
    row["tflops"] = operations() / cold.median * 1e-12;
    row["share"] = forest_.share();
    row["plan_us"] = summarize(contender.plan).median * 1e6;
    row["model_us"] = contender.workspace.plan().model.seconds * 1e6;
    row["max_error"] = contender.accuracy.max_error;
    row["error_bound"] = contender.accuracy.error_bound;
    row["error_ratio"] = contender.accuracy.worst;
    row["checked_rows"] = contender.accuracy.rows;
    return row;
  }

 private:
  void plan(Contender& contender) const { contender.attention.plan(forest_, contender.workspace); }
  void run(Contender& contender) {
    contender.attention.run(contender.workspace, problem_.q, problem_.kv.view, problem_.out, problem_.lse);
  }

  /// 4 * head_dim for every query head and visible token: a product for the score and one for the value.
  double operations() const {
    double visible = 0;
    for (std::size_t request = 0; request < batch_.seq_lens.size(); ++request) {
      const double queries = batch_.qo_lens[request];
      visible += queries * batch_.seq_lens[request] - queries * (queries - 1) / 2;
    }
    return 4.0 * shape_.head_dim * shape_.heads.qo * visible;
  }

  const Options& options_;
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

Table make_table() {
  using enum Table::Align;
  return Table({{"requests x tokens", left},
                {"heads", left},
                {"dtype", left},
                {"strategy", left},
                {"floor us"},
                {"of", left},
                {"cold us"},
                {"ratio"},
                {"warm us"},
                {"GB/s"},
                {"GFLOP/s"},
                {"share"},
                {"plan us"},
                {"model us"},
                {"error/bound"}});
}

void add_to_table(Table& table, const GridCase& shape, const Json& row) {
  const auto number = [&](const char* field) { return row[field].get<double>(); };
  table.add_row({shape.label(), to_string(shape.heads), to_string(shape.dtype), row["strategy"],
                 fmt::format("{:.1f}", number("floor_us")), row["floor_bound"],
                 fmt::format("{:.1f}", row["cold_us"]["median"].get<double>()), fmt::format("{:.2f}", number("ratio")),
                 fmt::format("{:.1f}", row["warm_us"]["median"].get<double>()), fmt::format("{:.1f}", number("gbps")),
                 fmt::format("{:.1f}", number("tflops") * 1e3), fmt::format("{:.2f}", number("share")),
                 fmt::format("{:.1f}", number("plan_us")), fmt::format("{:.1f}", number("model_us")),
                 fmt::format("{:.2f}", number("error_ratio"))});
}

Json describe_flush(const FloorMeter& meter) {
  const std::size_t cache = last_level_cache_bytes();
  return {{"bytes", meter.flush_bytes()},
          {"last_level_cache_bytes", cache},
          {"complete", cache > 0 && meter.flush_bytes() > cache}};
}

void run_bench(const Options& options) {
  const Grid grid = options.shape.cases();
  const auto strategies = parse_strategies(options.strategies);
  const PageOrder page_order = page_order_from_string(options.page_order);
  const KvLayout layout = kv_layout_from_string(options.kv_layout);
  const auto max_bytes = options.max_bytes.empty() ? static_cast<std::int64_t>(available_memory() / 2)
                                                   : parse_bytes(options.max_bytes, "max-bytes");
  options.backend.device();
  std::FILE* text = text_stream(options.json);

  Result result("bench");
  FloorMeter meter(options.backend.num_threads());
  result["flush"] = describe_flush(meter);
  result["skipped"] = Json::array();
  Table table = make_table();
  int over_bound = 0, skipped = 0;
  {
    Progress progress("bench", static_cast<std::int64_t>(grid.cases.size() * strategies.size()) * options.repeats);
    std::int64_t done = 0;
    for (const GridCase& shape : grid.cases) {
      SyntheticBatch batch(paths_of(shape), {shape.qo_len}, shape.page_size, page_order, options.seed);
      const std::int64_t bytes =
          batch.num_pages() * Problem::page_bytes({shape.heads, shape.head_dim, shape.page_size, shape.dtype, layout});
      if (bytes > max_bytes) {
        result["skipped"].push_back({{"case", shape.fields}, {"label", shape.label()}, {"kv_bytes", bytes}});
        ++skipped;
        done += static_cast<std::int64_t>(strategies.size()) * options.repeats;
        continue;
      }
      Measurement measurement(options, shape, std::move(batch), meter);
      measurement.check();
      measurement.time(progress, done);
      for (const auto& contender : measurement.contenders()) {
        Json row = measurement.row(*contender, grid.name);
        add_to_table(table, shape, row);
        result.set_device(contender->attention);
        result.add_row(std::move(row));
        over_bound += contender->accuracy.ok() ? 0 : 1;
      }
    }
  }
  if (!table.empty()) table.print(text);
  for (const auto& entry : result["skipped"]) {
    fmt::print(text, "skipped: {} heads {}/{}: its KV takes {}, --max-bytes is {}\n", entry["label"].get<std::string>(),
               entry["case"]["heads"][0].get<int>(), entry["case"]["heads"][1].get<int>(),
               format_bytes(entry["kv_bytes"].get<double>()), format_bytes(static_cast<double>(max_bytes)));
  }
  fmt::print(text, "cold: after reading {} (last-level cache {}); {} runs each\n",
             format_bytes(static_cast<double>(meter.flush_bytes())),
             format_bytes(static_cast<double>(last_level_cache_bytes())), options.repeats);
  result.write(options.json);
  if (over_bound > 0) throw CheckFailed(fmt::format("{} rows exceeded their error bound", over_bound));
  if (skipped == static_cast<int>(grid.cases.size())) {
    throw Error(ErrorCode::invalid_argument, "max-bytes", "room for at least one case",
                format_bytes(static_cast<double>(max_bytes)));
  }
}

}  // namespace

void add_bench_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("bench", "Measure attention over shapes against the floor of this machine");
  options->shape.add_to(*command, true);
  options->backend.add_to(*command);
  command->add_option("--strategy", options->strategies, "auto, unshared, two_phase, hydragen, several or all")
      ->capture_default_str();
  command->add_option("--repeats", options->repeats, "runs of each")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command->add_option("--page-order", options->page_order, "where pages lie: random or sequential")
      ->capture_default_str();
  command->add_option("--kv-layout", options->kv_layout, "nhd or hnd")->capture_default_str();
  command->add_option("--max-bytes", options->max_bytes, "skip cases whose KV takes more [half of the free memory]");
  command->add_option("--check-rows", options->check_rows, "rows held against the reference")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "of KV, q and page order")->capture_default_str();
  add_json_option(*command, options->json);
  command->callback([options] { run_bench(*options); });
}

}  // namespace trunkline::tools
