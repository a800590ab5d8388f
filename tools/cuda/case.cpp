#include "cuda/case.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <numeric>

#include "common/bench_row.hpp"
#include "common/statistics.hpp"
#include "trunkline/error.hpp"

namespace trunkline::tools::cuda {
namespace {

double median(const std::vector<double>& samples) { return summarize(samples).median; }

}  // namespace

CaseMeasurement::CaseMeasurement(const BenchOptions& options, const GridCase& shape, SyntheticBatch batch, Meter& meter)
    : options_(options),
      shape_(shape),
      batch_(std::move(batch)),
      meter_(meter),
      forest_(batch_.forest()),
      problem_(options.problem_shape(shape), batch_, std::max(options.layers, 1), options.seed),
      reader_(problem_.pages(), pages_in_table_order()),
      empty_(meter.capture([&] { check(empty(meter.stream()), "empty"); })) {
  const Capacity capacity{batch_.num_requests(), static_cast<int>(forest_.num_query_tokens()),
                          std::max(batch_.max_pages, 1)};
  for (const ExecutionOptions& execution : options.backend.executions()) {
    for (const Strategy strategy : parse_strategies(options.strategies)) {
      try {
        contenders_.push_back(std::make_unique<Contender>(problem_.config(strategy), capacity, execution));
      } catch (const Error& error) {
        if (error.code() != ErrorCode::unsupported) throw;
        refusals_.push_back(error.what());
        break;  // what a kernel does not cover, it covers with no strategy
      }
    }
  }
  for (const ReadMethod method : reader_.methods()) {
    readings_.push_back({method, meter_.capture([&] { reader_.enqueue(method, meter_.stream()); }), {}, {}});
  }
}

std::vector<PageTokens> CaseMeasurement::pages_in_table_order() const {
  std::vector<bool> seen(static_cast<std::size_t>(batch_.num_pages()), false);
  std::vector<PageTokens> pages;
  for (const std::int32_t page : batch_.indices) {
    const auto at = static_cast<std::size_t>(page);
    if (!seen[at]) pages.push_back({page, batch_.page_tokens[at]});
    seen[at] = true;
  }
  return pages;
}

void CaseMeasurement::plan(Contender& contender) {
  contender.attention.plan(forest_, contender.workspace, {meter_.stream()});
}

void CaseMeasurement::enqueue(Contender& contender, int layer) {
  contender.attention.run(contender.workspace, problem_.q, problem_.kv(layer), problem_.out, problem_.lse,
                          {meter_.stream()});
}

void CaseMeasurement::check_results() {
  SampledCheck sampled(problem_, batch_, options_.check_rows, options_.seed);
  for (const auto& contender : contenders_) {
    plan(*contender);
    problem_.poison_results();
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    enqueue(*contender);
    contender->accuracy = sampled.compare();
    // What is timed is what was checked: a replay, on poisoned results again.
    contender->graph.emplace(meter_.capture([&] { enqueue(*contender); }));
    problem_.poison_results();
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    contender->graph->launch(meter_.stream());
    contender->accuracy.merge(sampled.compare());
    contender->accuracy.rows /= 2;  // the same rows twice
    if (options_.layers == 0) continue;
    const auto chain = [&](bool own_kv) {
      return meter_.capture([&] {
        for (int layer = 0; layer < options_.layers; ++layer) enqueue(*contender, own_kv ? layer : 0);
      });
    };
    contender->chain.emplace(chain(false));
    contender->own_kv_chain.emplace(chain(true));
  }
}

void CaseMeasurement::time() {
  constexpr int plans = 9;
  for (int repeat = 0; repeat < plans; ++repeat) {
    for (const auto& contender : contenders_) {
      contender->plan.push_back(time_seconds([&] { plan(*contender); }));
      meter_.stream().synchronize();
    }
  }
  std::vector<std::size_t> order(contenders_.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (int repeat = 0; repeat < options_.repeats; ++repeat) {
    for (Reading& reading : readings_) meter_.cold(reading.graph, reading.cold);
    for (const std::size_t index : order) meter_.cold(*contenders_[index]->graph, contenders_[index]->cold);
    meter_.cold(empty_, empty_cold_);
    for (Reading& reading : readings_) meter_.warm(reading.graph, reading.warm);
    for (const std::size_t index : order) meter_.warm(*contenders_[index]->graph, contenders_[index]->warm);
    meter_.warm(empty_, empty_warm_);
    for (const std::size_t index : order) {
      Contender& contender = *contenders_[index];
      if (contender.chain) meter_.warm(*contender.chain, contender.chained);
      if (contender.own_kv_chain) meter_.cold(*contender.own_kv_chain, contender.own_kv_chained);
    }
    meter_.collect();
    // Everybody runs after everybody else in turn.
    if (!order.empty()) std::rotate(order.begin(), order.begin() + 1, order.end());
  }
}

Json CaseMeasurement::rows(const std::string& grid, const MatrixRate& rate) const {
  Json all = Json::array();
  for (const auto& contender : contenders_) all.push_back(row(*contender, grid, rate));
  return all;
}

Json CaseMeasurement::row(const Contender& contender, const std::string& grid, const MatrixRate& rate) const {
  const auto fastest = [&](std::vector<double> Reading::* samples) -> const Reading& {
    return *std::min_element(readings_.begin(), readings_.end(), [&](const Reading& a, const Reading& b) {
      return median(a.*samples) < median(b.*samples);
    });
  };
  const Reading& cold_reading = fastest(&Reading::cold);
  const double operations = batch_.operations(shape_.heads.qo, shape_.head_dim);
  const auto floor_of = [&](const std::vector<double>& reads, const std::vector<double>& empties) {
    return Floor{median(reads), operations / rate.burst + median(empties)};
  };
  BenchRow row = bench_row(grid, shape_, options_, contender);
  row.read = summarize(cold_reading.cold);
  row.floor = floor_of(cold_reading.cold, empty_cold_);
  row.warm_floor_seconds = floor_of(fastest(&Reading::warm).warm, empty_warm_).seconds();
  row.distinct_bytes = std::accumulate(batch_.page_tokens.begin(), batch_.page_tokens.end(), 0.0) *
                       static_cast<double>(problem_.config(contender.strategy).kv_bytes_per_token());
  row.operations = operations;
  row.share = forest_.share();
  Json json = to_json(row);
  json["empty_us"] = to_json(summarize(empty_cold_), 1e6);
  json["reader"] = to_string(cold_reading.method);
  for (const Reading& reading : readings_) json["readers_us"][to_string(reading.method)] = median(reading.cold) * 1e6;
  json["matrix_tflops"] = rate.burst * 1e-12;
  json["sustained_matrix_tflops"] = rate.sustained * 1e-12;
  json["read_share"] = static_cast<double>(contender.workspace.plan().model.kv_bytes) / row.distinct_bytes;
  if (contender.chain) {
    const double layers = options_.layers;
    json["layers"] = {{"count", options_.layers},
                      {"layer_us", to_json(summarize(contender.chained), 1e6 / layers)},
                      {"own_kv_layer_us", to_json(summarize(contender.own_kv_chained), 1e6 / layers)},
                      {"single_us", (row.warm.median - median(empty_warm_)) * 1e6}};
  }
  return json;
}

}  // namespace trunkline::tools::cuda
