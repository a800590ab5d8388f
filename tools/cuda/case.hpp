// One case of a benchmark on the device: every kernel and strategy, the readers of its floor, and their times, taken in
// turn so that all see the same machine.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/bench_options.hpp"
#include "common/result.hpp"
#include "cuda/meter.hpp"
#include "cuda/problem.hpp"
#include "cuda/product.hpp"
#include "cuda/readers.hpp"
#include "trunkline/attention.hpp"

namespace trunkline::tools::cuda {

class CaseMeasurement {
 public:
  /// Throws device_error when memory is short. What a kernel refuses is in `refusals`.
  CaseMeasurement(const BenchOptions& options, const GridCase& shape, SyntheticBatch batch, Meter& meter);

  /// Holds every contender's results against the reference.
  void check_results();
  /// Takes all times, options.repeats of each.
  void time();

  /// One row per contender.
  Json rows(const std::string& grid, const MatrixRate& rate) const;
  const std::vector<std::string>& refusals() const { return refusals_; }
  bool has_contenders() const { return !contenders_.empty(); }
  const Attention& attention() const { return contenders_.front()->attention; }

 private:
  /// One kernel and strategy.
  struct Contender {
    Contender(const AttentionConfig& config, const Capacity& capacity, const ExecutionOptions& execution)
        : strategy(config.strategy),
          attention(config, capacity, Device{DeviceKind::cuda, 0}, execution),
          workspace(attention) {}

    Strategy strategy;
    Attention attention;
    Workspace workspace;
    Accuracy accuracy;
    std::optional<Graph> graph, chain, own_kv_chain;
    std::vector<double> plan, cold, warm, chained, own_kv_chained;  // seconds
  };
  struct Reading {
    ReadMethod method;
    Graph graph;
    std::vector<double> cold, warm;
  };

  void enqueue(Contender& contender, int layer = 0);
  void plan(Contender& contender);
  std::vector<PageTokens> pages_in_table_order() const;
  Json row(const Contender& contender, const std::string& grid, const MatrixRate& rate) const;

  const BenchOptions& options_;
  const GridCase& shape_;
  SyntheticBatch batch_;
  Meter& meter_;
  Forest forest_;
  DeviceProblem problem_;
  PageReader reader_;
  std::vector<std::unique_ptr<Contender>> contenders_;
  std::vector<Reading> readings_;
  Graph empty_;
  std::vector<double> empty_cold_, empty_warm_;
  std::vector<std::string> refusals_;
};

}  // namespace trunkline::tools::cuda
