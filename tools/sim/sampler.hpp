// Evenly spaced samples of a run whose length is not known beforehand.
#pragma once

#include <cstdint>
#include <vector>

#include "sim/simulation.hpp"

namespace trunkline::sim {

/// A decode step to look at later.
struct Sample {
  std::int64_t index = 0;  // of the step, from 0
  Step step;
  Forest forest;
};

class StepSampler {
 public:
  explicit StepSampler(int num_samples) : num_samples_(num_samples) {}

  /// Shows the sampler the simulation's current step. It copies the forest of one step in `interval`, which doubles
  /// whenever it holds too many, so that memory stays bounded.
  void see(const Simulation& simulation);
  /// The num_samples steps nearest to the middles of as many equal parts of the run; fewer when it was that short.
  std::vector<Sample> take();

 private:
  /// Held per sample asked for: the one taken is off its place by at most 1/16 of the distance between samples.
  static constexpr std::size_t held_per_sample = 16;

  int num_samples_;
  std::int64_t num_seen_ = 0;
  std::int64_t interval_ = 1;
  std::vector<Sample> held_;  // steps 0, interval, 2 * interval, ...
};

}  // namespace trunkline::sim
