// The CPU backend's threads: a phased parallel loop with dynamic distribution and nothing but atomics inside.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace trunkline::exec {

/// A loop over phases of independent units. Phases run one after the other; the units of a phase are taken in order by
/// whichever thread is free.
class Job {
 public:
  virtual int num_phases() const noexcept = 0;
  virtual std::int64_t num_units(int phase) const noexcept = 0;
  /// Units a thread takes at a time.
  virtual std::int64_t grain(int phase) const noexcept = 0;
  /// Called from `thread` in [0, pool size). Sees everything that earlier phases wrote.
  virtual void work(int phase, std::int64_t unit, int thread) const noexcept = 0;

 protected:
  ~Job() = default;
};

/// `num_threads` threads, the caller of `run` included. A waiting thread spins for some tens of microseconds, which
/// covers the gap between phases and between layers, then sleeps.
class ThreadPool {
 public:
  /// Throws device_error when the system has no more threads.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const noexcept { return static_cast<int>(workers_.size()) + 1; }

  /// Runs the job on all threads and returns when it is done. Callers of a pool of several threads take turns; a pool
  /// of one computes on its callers, which do not wait for each other. Throws unsupported in a process that was forked
  /// off after the pool was made: its threads stayed behind.
  void run(const Job& job);

 private:
  void worker_main(int thread) noexcept;
  void take_part(const Job& job, int thread) noexcept;
  void phase_barrier() noexcept;
  void wait_for_change(const std::atomic<std::uint32_t>& value, std::uint32_t old) const noexcept;
  void stop() noexcept;

  std::mutex turn_;
  int spins_;
  int forks_;                 // that this process has behind it, counted when the pool was made
  bool stopping_ = false;     // published by start_
  const Job* job_ = nullptr;  // published by start_

  // Each on a cache line of its own: next_unit_ is hit by every thread for every unit.
  alignas(64) std::atomic<std::uint32_t> start_{0};     // bumped to begin a job
  alignas(64) std::atomic<std::int64_t> next_unit_{0};  // of the phase that runs
  alignas(64) std::atomic<std::uint32_t> arrived_{0};   // threads that have finished the phase
  alignas(64) std::atomic<std::uint32_t> phase_{0};     // bumped by the last to arrive
  alignas(64) std::atomic<std::uint32_t> running_{0};   // workers that have not finished the job

  std::vector<std::thread> workers_;
};

}  // namespace trunkline::exec
