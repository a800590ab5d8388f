#include "common/statistics.hpp"

#include <algorithm>
#include <cmath>

namespace trunkline::tools {

Statistics summarize(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  const auto percentile = [&](double fraction) {
    const double rank = fraction * static_cast<double>(samples.size() - 1);
    const auto below = static_cast<std::size_t>(rank);
    const std::size_t above = std::min(below + 1, samples.size() - 1);
    return std::lerp(samples[below], samples[above], rank - static_cast<double>(below));
  };
  return {percentile(0.5), percentile(0.1), percentile(0.9), static_cast<int>(samples.size())};
}

nlohmann::ordered_json to_json(const Statistics& statistics, double scale) {
  return {{"median", statistics.median * scale},
          {"p10", statistics.p10 * scale},
          {"p90", statistics.p90 * scale},
          {"runs", statistics.runs}};
}

}  // namespace trunkline::tools
