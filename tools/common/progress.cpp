#include "common/progress.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace trunkline::tools {

Progress::Progress(std::string label, std::int64_t total)
    : label_(std::move(label)), total_(std::max<std::int64_t>(total, 1)), shown_(isatty(STDERR_FILENO) != 0) {}

Progress::~Progress() {
  if (shown_ && last_drawn_ >= 0) fmt::print(stderr, "\r\033[K");
}

void Progress::update(std::int64_t done, const std::string& note) {
  constexpr double redraw_seconds = 0.1;
  constexpr int width = 28;
  if (!shown_ || (last_drawn_ >= 0 && watch_.seconds() - last_drawn_ < redraw_seconds)) return;
  last_drawn_ = watch_.seconds();
  const double part = std::clamp(static_cast<double>(done) / static_cast<double>(total_), 0.0, 1.0);
  const int filled = static_cast<int>(part * width);
  const std::string bar =
      std::string(static_cast<std::size_t>(filled), '=') + std::string(static_cast<std::size_t>(width - filled), ' ');
  fmt::print(stderr, "\r\033[K{} [{}] {:3.0f} %  {}", label_, bar, part * 100, note);
  std::fflush(stderr);
}

}  // namespace trunkline::tools
