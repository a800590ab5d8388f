#include "sim/replayed.hpp"

#include <fmt/core.h>

#include <algorithm>

#include "sim/simulation.hpp"

namespace trunkline::sim {
namespace {

void summarize_steps(Replayed& replayed) {
  std::vector<double> shares;
  for (const Replayed::Point& point : replayed.points) {
    shares.push_back(point.step.share());
    replayed.mean_share += shares.back();
    replayed.mean_batch += point.step.batch;
    replayed.largest_batch = std::max(replayed.largest_batch, point.step.batch);
  }
  const auto steps = static_cast<double>(std::max<std::size_t>(1, replayed.points.size()));
  replayed.mean_share /= steps;
  replayed.mean_batch /= steps;
  replayed.share = tools::summarize(std::move(shares));
}

}  // namespace

Replayed replay(const trace::Trace& trace, const Options& options, int num_samples,
                const std::function<void(std::int64_t)>& progress) {
  Replayed replayed;
  Simulation simulation(trace, options);
  StepSampler sampler(num_samples);
  const tools::Stopwatch watch;
  while (simulation.step()) {
    sampler.see(simulation);
    const Totals totals = simulation.totals();
    replayed.points.push_back({simulation.current(), totals.hit_rate()});
    progress(totals.finished);
  }
  replayed.seconds = watch.seconds();
  replayed.totals = simulation.totals();
  replayed.tree_bytes = simulation.tree().memory_bytes();
  replayed.samples = sampler.take();
  summarize_steps(replayed);
  return replayed;
}

std::string describe_arrivals(const Options& options) {
  return options.concurrency > 0 ? fmt::format("closed loop of {}", options.concurrency)
                                 : fmt::format("by time stamps x {:g}", options.time_scale);
}

}  // namespace trunkline::sim
