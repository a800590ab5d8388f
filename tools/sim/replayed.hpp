// A whole simulation, kept for the report.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "common/statistics.hpp"
#include "sim/options.hpp"
#include "sim/sampler.hpp"
#include "trace/trace.hpp"

namespace trunkline::sim {

struct Replayed {
  struct Point {
    Step step;
    double hit_rate = 0;  // so far
  };
  std::vector<Point> points;  // one per step
  Totals totals;
  std::vector<Sample> samples;
  double seconds = 0;  // of real time
  std::int64_t tree_bytes = 0;

  // Over the steps.
  double mean_batch = 0, mean_share = 0;
  std::int32_t largest_batch = 0;
  tools::Statistics share;
  double simulated_seconds() const { return points.empty() ? 0 : points.back().step.time; }
};

/// Runs the simulation to its end. `progress` is told of the requests finished after each step.
Replayed replay(const trace::Trace& trace, const Options& options, int num_samples,
                const std::function<void(std::int64_t)>& progress);

/// "by time stamps x 1", "closed loop of 64".
std::string describe_arrivals(const Options& options);

}  // namespace trunkline::sim
