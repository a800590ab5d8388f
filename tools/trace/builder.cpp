#include "trace/builder.hpp"

#include <algorithm>
#include <limits>

namespace trunkline::trace {

bool TokenIds::own(std::int64_t count, std::int32_t& first) {
  if (count > std::numeric_limits<std::int32_t>::max() - next_) return false;
  first = static_cast<std::int32_t>(next_);
  next_ += count;
  return true;
}

bool TokenIds::shared(std::uint32_t kind, std::int64_t id, std::int64_t count, std::int32_t& first) {
  auto& blocks = blocks_[kind];
  if (const auto known = blocks.find(id); known != blocks.end()) {
    first = known->second;
    return true;
  }
  if (!own(count, first)) return false;
  blocks.emplace(id, first);
  return true;
}

void finish_by_arrival(Trace& trace, std::size_t max_requests) {
  auto& requests = trace.requests;
  std::stable_sort(requests.begin(), requests.end(),
                   [](const Request& a, const Request& b) { return a.arrival < b.arrival; });
  if (max_requests > 0 && requests.size() > max_requests) requests.resize(max_requests);
  if (requests.empty()) return;
  const double begin = requests.front().arrival;
  for (Request& request : requests) request.arrival -= begin;
}

}  // namespace trunkline::trace
