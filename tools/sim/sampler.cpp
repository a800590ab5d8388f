#include "sim/sampler.hpp"

#include <algorithm>
#include <utility>

namespace trunkline::sim {

void StepSampler::see(const Simulation& simulation) {
  const std::int64_t index = num_seen_++;
  if (num_samples_ == 0 || index % interval_ != 0) return;
  held_.push_back({index, simulation.current(), simulation.forest()});
  if (held_.size() <= held_per_sample * static_cast<std::size_t>(num_samples_)) return;
  interval_ *= 2;
  std::erase_if(held_, [this](const Sample& sample) { return sample.index % interval_ != 0; });
}

std::vector<Sample> StepSampler::take() {
  std::vector<Sample> taken;
  const auto count = std::min<std::int64_t>(num_samples_, static_cast<std::int64_t>(held_.size()));
  std::int64_t last = -1;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t target = num_seen_ * (2 * i + 1) / (2 * count);
    const std::int64_t nearest = (target + interval_ / 2) / interval_;
    // Never one twice, and enough left for those to come.
    const std::int64_t at = std::clamp(nearest, last + 1, static_cast<std::int64_t>(held_.size()) - (count - i));
    taken.push_back(std::move(held_[static_cast<std::size_t>(at)]));
    last = at;
  }
  held_.clear();
  return taken;
}

}  // namespace trunkline::sim
