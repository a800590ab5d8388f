#include "exec/thread_pool.hpp"

#include <pthread.h>

#include <string>
#include <system_error>

#include "base/check.hpp"

namespace trunkline::exec {
namespace {

// One turn of a spin loop: 40 to 140 cycles on x86, so 1000 of them are some 20 to 50 microseconds. That is longer than
// the gap between two phases or two layers, and short beside a scheduler's time slice.
constexpr int max_spins = 1000;

inline void pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// How many forks lie between the program's start and this process.
std::atomic<int> num_forks{0};

int count_forks() {
  [[maybe_unused]] static const int registered =
      pthread_atfork(nullptr, nullptr, [] { num_forks.fetch_add(1, std::memory_order_relaxed); });
  return num_forks.load(std::memory_order_relaxed);
}

}  // namespace

// With more threads than the machine has, who spins keeps a core from who computes.
ThreadPool::ThreadPool(int num_threads)
    : spins_(static_cast<unsigned>(num_threads) <= std::thread::hardware_concurrency() ? max_spins : 0),
      forks_(count_forks()) {
  workers_.reserve(static_cast<std::size_t>(num_threads - 1));
  try {
    for (int thread = 1; thread < num_threads; ++thread) {
      workers_.emplace_back([this, thread] { worker_main(thread); });
    }
  } catch (const std::system_error& error) {
    const std::size_t got = workers_.size() + 1;
    stop();
    throw Error(ErrorCode::device_error, "num_threads", std::to_string(num_threads) + " threads",
                std::to_string(got) + " (" + error.what() + ")");
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() noexcept {
  if (count_forks() != forks_) {  // of a parent, where they run on
    for (std::thread& worker : workers_) worker.detach();
    workers_.clear();
    return;
  }
  stopping_ = true;
  start_.fetch_add(1, std::memory_order_release);
  start_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

void ThreadPool::run(const Job& job) {
  std::int64_t units = 0;
  for (int phase = 0; phase < job.num_phases(); ++phase) units += job.num_units(phase);
  if (units == 0) return;
  if (workers_.empty()) {
    for (int phase = 0; phase < job.num_phases(); ++phase) {
      for (std::int64_t unit = 0; unit < job.num_units(phase); ++unit) job.work(phase, unit, 0);
    }
    return;
  }
  if (count_forks() != forks_) {
    throw Error(ErrorCode::unsupported, "num_threads", "an Attention made by this process, where it has several",
                "one made before the process was forked off, whose threads stayed behind");
  }
  const std::lock_guard turn(turn_);
  job_ = &job;
  next_unit_.store(0, std::memory_order_relaxed);
  running_.store(static_cast<std::uint32_t>(workers_.size()), std::memory_order_relaxed);
  start_.fetch_add(1, std::memory_order_release);
  start_.notify_all();
  take_part(job, 0);
  while (const std::uint32_t running = running_.load(std::memory_order_acquire)) wait_for_change(running_, running);
}

void ThreadPool::worker_main(int thread) noexcept {
  for (std::uint32_t seen = 0;; ++seen) {
    wait_for_change(start_, seen);
    if (stopping_) return;
    take_part(*job_, thread);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

void ThreadPool::take_part(const Job& job, int thread) noexcept {
  bool first = true;
  for (int phase = 0; phase < job.num_phases(); ++phase) {
    const std::int64_t units = job.num_units(phase);
    if (units == 0) continue;
    if (!first) phase_barrier();
    first = false;
    const std::int64_t grain = job.grain(phase);
    for (;;) {
      const std::int64_t begin = next_unit_.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= units) break;
      const std::int64_t end = begin + grain < units ? begin + grain : units;
      for (std::int64_t unit = begin; unit < end; ++unit) job.work(phase, unit, thread);
    }
  }
}

void ThreadPool::phase_barrier() noexcept {
  const std::uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<std::uint32_t>(size())) {
    arrived_.store(0, std::memory_order_relaxed);
    next_unit_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    phase_.notify_all();
  } else {
    wait_for_change(phase_, phase);
  }
}

void ThreadPool::wait_for_change(const std::atomic<std::uint32_t>& value, std::uint32_t old) const noexcept {
  for (int spin = 0; spin < spins_; ++spin) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

}  // namespace trunkline::exec
