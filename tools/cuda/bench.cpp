#include "cuda/bench.hpp"

#include <fmt/core.h>

#include "common/bench_row.hpp"
#include "common/exit_codes.hpp"
#include "common/progress.hpp"
#include "common/statistics.hpp"
#include "common/table.hpp"
#include "cuda/case.hpp"
#include "cuda/facts.hpp"
#include "cuda/host_step.hpp"
#include "cuda/product.hpp"
#include "trunkline/error.hpp"

namespace trunkline::tools::cuda {
namespace {

// Pages of the cache that no request has, among those that requests have.
constexpr int unused_pages = 4;

/// Bytes a case may take: what is free, less what workspaces and the sampled check need.
std::int64_t free_bytes() {
  constexpr std::size_t reserved = std::size_t{3} << 30;
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return static_cast<std::int64_t>(free > reserved ? free - reserved : 0);
}

void print_layers(const Json& rows, std::FILE* text) {
  using enum Table::Align;
  Table table({{"requests x tokens", left},
               {"kernel", left},
               {"strategy", left},
               {"layers"},
               {"us per layer"},
               {"one alone, less launch"},
               {"own KV, us per layer"}});
  for (const Json& row : rows) {
    if (!row.contains("layers")) continue;
    const Json& layers = row["layers"];
    table.add_row({row["label"], row["kernel"], row["strategy"], std::to_string(layers["count"].get<int>()),
                   fmt::format("{:.2f}", layers["layer_us"]["median"].get<double>()),
                   fmt::format("{:.2f}", layers["single_us"].get<double>()),
                   fmt::format("{:.2f}", layers["own_kv_layer_us"]["median"].get<double>())});
  }
  if (!table.empty()) fmt::print(text, "\n"), table.print(text);
}

class Bench {
 public:
  explicit Bench(const BenchOptions& options)
      : options_(options),
        grid_(options.shape.cases()),
        page_order_(page_order_from_string(options.page_order)),
        result_("bench", options.json),
        text_(text_stream(options.json)) {
    kv_layout_from_string(options.kv_layout);
    parse_strategies(options.strategies);
    options.backend.executions();
  }

  void run() {
    const Stopwatch watch;
    rate_ = measure_matrix_rate(meter_.stream());
    {
      Progress progress("bench", static_cast<std::int64_t>(grid_.cases.size()));
      std::int64_t done = 0;
      for (const GridCase& shape : grid_.cases) {
        if (options_.is_over(watch.seconds())) {
          skip(shape, "the time limit was reached");
        } else {
          measure(shape);
        }
        progress.update(++done, shape.label());
      }
    }
    finish();
  }

 private:
  void skip(const GridCase& shape, const std::string& reason) { skipped_.push_back(skipped_json(shape, reason)); }

  void measure(const GridCase& shape) {
    SyntheticBatch batch(paths_of(shape), {shape.qo_len}, shape.page_size, page_order_, options_.seed, unused_pages);
    const std::int64_t bytes = DeviceProblem::bytes(options_.problem_shape(shape), batch, std::max(options_.layers, 1));
    const std::int64_t most = options_.max_bytes.empty() ? free_bytes() : parse_bytes(options_.max_bytes, "max-bytes");
    if (bytes > most) {
      skip(shape, fmt::format("it takes {}, {} may be used", format_bytes(static_cast<double>(bytes)),
                              format_bytes(static_cast<double>(most))));
      return;
    }
    CaseMeasurement measurement(options_, shape, std::move(batch), meter_);
    for (const std::string& refusal : measurement.refusals()) skip(shape, refusal);
    if (!measurement.has_contenders()) return;
    measurement.check_results();
    measurement.time();
    result_.set_device(measurement.attention());
    for (Json& row : measurement.rows(grid_.name, rate_)) result_.add_row(std::move(row));
    complete();
    result_.write_so_far();
  }

  /// The fields beside the rows.
  void complete() {
    result_["device"]["gpu"] = gpu_json();
    result_["flush"] = {{"bytes", Meter::flush_bytes()},
                        {"last_level_cache_bytes", result_["device"]["gpu"]["l2_bytes"]},
                        {"complete", true}};
    result_["skipped"] = skipped_;
    result_["summary"] = summarize_bench(result_["rows"]);
  }

  void finish() {
    complete();
    print_bench_table(result_["rows"], text_);
    print_layers(result_["rows"], text_);
    print_summary(result_["summary"], text_);
    print_skipped(skipped_, text_);
    fmt::print(text_, "{}; cold: after reading {}; {} replays each; matrix rate {:.0f} TFLOP/s, sustained {:.0f}\n",
               result_["device"]["gpu"]["name"].get<std::string>(),
               format_bytes(static_cast<double>(Meter::flush_bytes())), options_.repeats, rate_.burst * 1e-12,
               rate_.sustained * 1e-12);
    result_.write();
    require_correct(result_["rows"]);
    if (result_["rows"].empty() && !skipped_.empty()) {
      throw Error(ErrorCode::unsupported, "grid", "a case that can be measured", skipped_[0]["reason"]);
    }
  }

  const BenchOptions& options_;
  Grid grid_;
  PageOrder page_order_;
  Result result_;
  std::FILE* text_;
  Meter meter_;
  MatrixRate rate_{};
  Json skipped_ = Json::array();
};

}  // namespace

void run_bench(const BenchOptions& options) {
  if (options.host) return measure_host_step(options);
  Bench(options).run();
}

}  // namespace trunkline::tools::cuda
