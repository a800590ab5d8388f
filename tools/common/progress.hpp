// A progress bar on standard error, only when that is a terminal.
#pragma once

#include <cstdint>
#include <string>

#include "common/statistics.hpp"

namespace trunkline::tools {

class Progress {
 public:
  /// total: what `update` counts to.
  Progress(std::string label, std::int64_t total);
  /// Clears the bar.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Draws at most every 100 ms; cheap to call often. `note` stands behind the bar.
  void update(std::int64_t done, const std::string& note = {});

 private:
  std::string label_;
  std::int64_t total_;
  bool shown_;
  double last_drawn_ = -1;
  Stopwatch watch_;
};

}  // namespace trunkline::tools
