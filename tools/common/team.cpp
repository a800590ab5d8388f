#include "common/team.hpp"

namespace trunkline::tools {
namespace {

// About 20 us of looking before sleeping: runs that follow one another start at once, and an idle team takes no core.
constexpr int spins = 2000;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

/// Returns when `value` is no longer `old`.
void wait_for_change(const std::atomic<std::uint32_t>& value, std::uint32_t old) {
  for (int i = 0; i < spins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

Team::Team(int num_threads) {
  for (int index = 1; index < num_threads; ++index) threads_.emplace_back([this, index] { work(index); });
}

Team::~Team() {
  stop_ = true;
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void Team::run(const std::function<void(int)>& body) {
  body_ = &body;
  running_.store(static_cast<std::uint32_t>(threads_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  body(0);
  for (std::uint32_t running; (running = running_.load(std::memory_order_acquire)) != 0;) {
    wait_for_change(running_, running);
  }
}

void Team::work(int index) {
  for (std::uint32_t seen = 0;; ++seen) {
    wait_for_change(generation_, seen);
    if (stop_) return;
    (*body_)(index);
    running_.fetch_sub(1, std::memory_order_release);
    running_.notify_one();
  }
}

}  // namespace trunkline::tools
