// Time and its statistics.
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <vector>

namespace trunkline::tools {

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  void restart() { start_ = Clock::now(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

/// Seconds that one call of `body` takes.
template <class Body>
double time_seconds(Body&& body) {
  const Stopwatch watch;
  body();
  return watch.seconds();
}

/// Order statistics of a sample, in the sample's own unit. Percentiles interpolate linearly between ranks.
struct Statistics {
  double median = 0, p10 = 0, p90 = 0;
  int runs = 0;
};
/// All zero for an empty sample.
Statistics summarize(std::vector<double> samples);
/// {"median", "p10", "p90", "runs"}, times `scale` (1e6 turns seconds into microseconds).
nlohmann::ordered_json to_json(const Statistics& statistics, double scale = 1);

}  // namespace trunkline::tools
