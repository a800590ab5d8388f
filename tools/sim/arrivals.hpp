// When requests of a trace arrive: by time stamps, or a closed loop.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "sim/options.hpp"
#include "trace/trace.hpp"

namespace trunkline::sim {

/// Requests without a parent arrive; their trees, a single request in most traces, are in flight until every branch has
/// finished.
class Arrivals {
 public:
  Arrivals(const trace::Trace& trace, const Options& options);

  /// The next request if it has arrived by `now`.
  std::optional<std::int32_t> take(double now);
  /// Simulated time of the next arrival; nothing in a closed loop, or when all have arrived.
  std::optional<double> next_time() const;
  bool exhausted() const { return next_ == roots_.size(); }

  void finished(std::int32_t request);
  std::span<const std::int32_t> branches(std::int32_t request) const;

 private:
  double time_of(std::int32_t root) const;

  const trace::Trace& trace_;
  double time_scale_;
  std::int32_t concurrency_;
  std::vector<std::int32_t> roots_;  // in order of arrival
  std::size_t next_ = 0;
  std::int32_t in_flight_ = 0;                // trees
  std::vector<std::int32_t> tree_of_;         // the root of each request
  std::vector<std::int32_t> unfinished_;      // by root: requests of its tree
  std::vector<std::int32_t> branch_offsets_;  // request r forks into branches_[branch_offsets_[r] .. [r + 1])
  std::vector<std::int32_t> branches_;
};

}  // namespace trunkline::sim
