#include "sim/measure.hpp"

#include <algorithm>

#include "common/reader.hpp"
#include "common/statistics.hpp"

namespace trunkline::sim {
namespace {

template <class Field>
std::int64_t largest(std::span<const CompactBatch> batches, Field field) {
  std::int64_t most = 1;
  for (const CompactBatch& batch : batches) most = std::max<std::int64_t>(most, field(batch));
  return most;
}

std::int64_t most_requests(std::span<const CompactBatch> batches) {
  return largest(batches, [](const CompactBatch& batch) { return batch.num_requests(); });
}

}  // namespace

Measure::Measure(const MeasureOptions& options, std::span<const CompactBatch> batches)
    : options_(options),
      problem_(options.shape, most_requests(batches),
               largest(batches, [](const CompactBatch& batch) { return batch.num_pages; }), options.seed),
      meter_(options.execution.num_threads) {
  const auto requests = static_cast<int>(most_requests(batches));
  const auto width = static_cast<int>(largest(batches, [](const CompactBatch& batch) { return batch.max_pages; }));
  for (const Strategy strategy : options.strategies) {
    contenders_.push_back(
        std::make_unique<Contender>(problem_.config(strategy), Capacity{requests, requests, width}, options));
  }
}

std::int64_t Measure::kv_memory_bytes() const {
  return problem_.kv.view.num_pages * tools::Problem::page_bytes(options_.shape);
}

void Measure::run(Contender& contender) {
  contender.attention.run(contender.workspace, problem_.q, problem_.kv.view, problem_.out, problem_.lse);
}

StepTimes Measure::step(const CompactBatch& batch) {
  for (TensorView* view : {&problem_.q, &problem_.out, &problem_.lse}) view->shape[0] = batch.num_requests();
  StepTimes times;
  times.strategies.resize(contenders_.size());
  const tools::Oracle oracle(problem_.computed(batch.tables(), batch.seq_lens, batch.qo_lens), options_.check_rows,
                             options_.seed);
  for (std::size_t i = 0; i < contenders_.size(); ++i) {
    Contender& contender = *contenders_[i];
    contender.attention.plan(batch.forest, contender.workspace);
    problem_.poison_results();
    run(contender);
    const Plan::Model& model = contender.workspace.plan().model;
    times.strategies[i].accuracy = oracle.compare();
    times.strategies[i].model_seconds = model.seconds;
    times.strategies[i].kv_bytes_read = model.kv_bytes;
  }

  const auto extents = tools::distinct_extents(batch.forest, problem_.kv.view);
  const AttentionConfig config = problem_.config(Strategy::automatic);
  times.distinct_bytes = batch.forest.distinct_tokens() * config.kv_bytes_per_token();
  times.operations = 4.0 * config.head_dim * config.num_qo_heads * static_cast<double>(batch.forest.total_tokens());
  std::vector<double> reads, rates;
  for (int repeat = 0; repeat < options_.repeats; ++repeat) {
    rates.push_back(meter_.matrix_rate());
    meter_.flush_caches();
    reads.push_back(meter_.read_seconds(extents));
    for (std::size_t i = 0; i < contenders_.size(); ++i) {
      Contender& contender = *contenders_[i];
      times.strategies[i].plan.push_back(
          tools::time_seconds([&] { contender.attention.plan(batch.forest, contender.workspace); }));
      meter_.flush_caches();
      times.strategies[i].cold.push_back(tools::time_seconds([&] { run(contender); }));
    }
  }
  times.floor = {tools::summarize(reads).median, times.operations / tools::summarize(rates).median};
  return times;
}

}  // namespace trunkline::sim
