// What a replay found, in the result format.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/result.hpp"
#include "sim/measure.hpp"
#include "sim/replayed.hpp"

namespace trunkline::sim {

/// A sampled step that was measured.
struct MeasuredStep {
  std::int64_t index = 0;  // of the step
  StepTimes times;
};

/// One strategy over all measured steps.
struct StrategyResult {
  Strategy strategy = Strategy::automatic;
  std::vector<double> cold, plan;         // seconds, of all steps and repeats
  std::vector<double> floors, ratios;     // per step: the floor in seconds, the median time over it
  double seconds = 0, model_seconds = 0;  // sums over steps, of medians
  double kv_bytes_read = 0, distinct_bytes = 0, operations = 0;  // sums over steps
  double speedup = 0;  // over unshared: sum of its medians over the sum of ours; 0 when unshared was not measured
  tools::Floor floor;  // sums over steps, of both sides
  tools::Accuracy accuracy;
};

std::vector<StrategyResult> by_strategy(const std::vector<Strategy>& strategies,
                                        const std::vector<MeasuredStep>& steps);

/// `label` says of what the steps are, the trace's name.
tools::Json row_json(const StrategyResult& result, const std::string& label, const MeasureOptions& options,
                     const Attention& attention);

/// One flat object of what the simulation was told and counted.
tools::Json summary_json(const trace::Trace& trace, const Options& options, const Replayed& replayed);

/// Arrays of one length: up to about a thousand steps, evenly spaced, and the measured ones; times are null where a
/// step was not measured. token_bytes: K and V of a token, all heads.
tools::Json series_json(const Replayed& replayed, const std::vector<Strategy>& strategies,
                        const std::vector<MeasuredStep>& measured, const Options& options, std::int64_t token_bytes);

}  // namespace trunkline::sim
