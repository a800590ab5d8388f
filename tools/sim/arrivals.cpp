#include "sim/arrivals.hpp"

#include <numeric>

namespace trunkline::sim {

Arrivals::Arrivals(const trace::Trace& trace, const Options& options)
    : trace_(trace), time_scale_(options.time_scale), concurrency_(options.concurrency) {
  const std::size_t count = trace.requests.size();
  tree_of_.resize(count);
  unfinished_.resize(count);
  branch_offsets_.resize(count + 2);  // shifted by one while it counts, so that filling ends with the offsets
  for (std::size_t i = 0; i < count; ++i) {
    const std::int32_t parent = trace.requests[i].parent;
    if (parent < 0) roots_.push_back(static_cast<std::int32_t>(i));
    tree_of_[i] = parent < 0 ? static_cast<std::int32_t>(i) : tree_of_[static_cast<std::size_t>(parent)];
    ++unfinished_[static_cast<std::size_t>(tree_of_[i])];
    if (parent >= 0) ++branch_offsets_[static_cast<std::size_t>(parent) + 2];
  }
  std::partial_sum(branch_offsets_.begin(), branch_offsets_.end(), branch_offsets_.begin());
  branches_.resize(count - roots_.size());
  for (std::size_t i = 0; i < count; ++i) {
    const std::int32_t parent = trace.requests[i].parent;
    if (parent < 0) continue;
    const std::int32_t slot = branch_offsets_[static_cast<std::size_t>(parent) + 1]++;
    branches_[static_cast<std::size_t>(slot)] = static_cast<std::int32_t>(i);
  }
}

double Arrivals::time_of(std::int32_t root) const {
  return trace_.requests[static_cast<std::size_t>(root)].arrival * time_scale_;
}

std::optional<std::int32_t> Arrivals::take(double now) {
  if (exhausted()) return std::nullopt;
  const std::int32_t root = roots_[next_];
  if (concurrency_ > 0 ? in_flight_ >= concurrency_ : time_of(root) > now) return std::nullopt;
  ++next_;
  ++in_flight_;
  return root;
}

std::optional<double> Arrivals::next_time() const {
  if (concurrency_ > 0 || exhausted()) return std::nullopt;
  return time_of(roots_[next_]);
}

void Arrivals::finished(std::int32_t request) {
  const auto root = static_cast<std::size_t>(tree_of_[static_cast<std::size_t>(request)]);
  if (--unfinished_[root] == 0) --in_flight_;
}

std::span<const std::int32_t> Arrivals::branches(std::int32_t request) const {
  const auto r = static_cast<std::size_t>(request);
  const auto begin = static_cast<std::size_t>(branch_offsets_[r]);
  return std::span(branches_).subspan(begin, static_cast<std::size_t>(branch_offsets_[r + 1]) - begin);
}

}  // namespace trunkline::sim
