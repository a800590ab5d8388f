// The real attention of one layer for sampled steps, on random KV, once per strategy.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/accuracy.hpp"
#include "common/floor.hpp"
#include "common/problem.hpp"
#include "sim/compact_batch.hpp"
#include "trunkline/attention.hpp"

namespace trunkline::sim {

struct MeasureOptions {
  tools::ProblemShape shape;
  std::vector<Strategy> strategies;
  std::string backend;
  Device device;
  ExecutionOptions execution;
  int repeats = 5;      // runs of each strategy per step
  int check_rows = 64;  // per step, held against the reference
  std::uint64_t seed = 1;
};

/// One strategy on one step. Times in seconds, one per repeat.
struct StrategyTimes {
  std::vector<double> plan, cold;
  double model_seconds = 0;
  std::int64_t kv_bytes_read = 0;  // by the plan's items, all heads
  tools::Accuracy accuracy;
};

struct StepTimes {
  std::vector<StrategyTimes> strategies;  // in the order of the options
  tools::Floor floor;
  std::int64_t distinct_bytes = 0;  // KV of the step, each byte once
  double operations = 0;
};

class Measure {
 public:
  /// KV memory, the same for every batch, is as large as the largest needs.
  Measure(const MeasureOptions& options, std::span<const CompactBatch> batches);

  /// Checks the results against the reference, then times strategies and floor in turn, caches flushed before each.
  StepTimes step(const CompactBatch& batch);
  const Attention& attention(std::size_t strategy) const { return contenders_[strategy]->attention; }
  std::int64_t kv_memory_bytes() const;

 private:
  struct Contender {
    Contender(const AttentionConfig& config, const Capacity& capacity, const MeasureOptions& options)
        : attention(config, capacity, options.device, options.execution), workspace(attention) {}
    Attention attention;
    Workspace workspace;
  };

  void run(Contender& contender);

  MeasureOptions options_;
  tools::Problem problem_;
  tools::FloorMeter meter_;
  std::vector<std::unique_ptr<Contender>> contenders_;
};

}  // namespace trunkline::sim
