#include "exec/thread_pool.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "trunkline/error.hpp"

namespace trunkline::exec {
namespace {

// Counts how often each unit ran, and whether every unit of earlier phases had run before.
class CountingJob final : public Job {
 public:
  CountingJob(std::vector<std::int64_t> units, std::int64_t grain) : units_(std::move(units)), grain_(grain) {
    for (const std::int64_t n : units_) counts_.emplace_back(static_cast<std::size_t>(n));
  }
  int num_phases() const noexcept override { return static_cast<int>(units_.size()); }
  std::int64_t num_units(int phase) const noexcept override { return units_[phase]; }
  std::int64_t grain(int) const noexcept override { return grain_; }
  void work(int phase, std::int64_t unit, int thread) const noexcept override {
    for (int before = 0; before < phase; ++before) {
      // Plain reads: a data race here would be one the barrier has to rule out.
      if (std::ranges::count(counts_[before], 1) != units_[before]) too_early = true;
    }
    ++counts_[phase][unit];
    int seen = max_thread.load();
    while (seen < thread && !max_thread.compare_exchange_weak(seen, thread)) {
    }
  }
  bool each_ran_once() const {
    return std::ranges::all_of(
        counts_, [](const auto& phase) { return std::ranges::all_of(phase, [](int count) { return count == 1; }); });
  }
  mutable std::atomic<bool> too_early{false};
  mutable std::atomic<int> max_thread{-1};

 private:
  std::vector<std::int64_t> units_;
  std::int64_t grain_;
  mutable std::vector<std::vector<int>> counts_;
};

class ThreadPoolSizes : public ::testing::TestWithParam<int> {};

TEST_P(ThreadPoolSizes, EveryUnitRunsOnceAfterThePhasesBefore) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.size(), GetParam());
  for (int round = 0; round < 50; ++round) {
    const CountingJob job({37, 0, 1, 200, 3, 0}, 1 + round % 7);
    pool.run(job);
    EXPECT_TRUE(job.each_ran_once());
    EXPECT_FALSE(job.too_early);
    EXPECT_LT(job.max_thread, GetParam());
  }
}

TEST_P(ThreadPoolSizes, NothingToDoReturnsAtOnce) {
  ThreadPool pool(GetParam());
  const CountingJob none({}, 1), empty({0, 0}, 1);
  pool.run(none);
  pool.run(empty);
  EXPECT_EQ(empty.max_thread, -1);
}

TEST_P(ThreadPoolSizes, ThreadsThatFellAsleepWakeUp) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // far longer than they spin
    const CountingJob job({64, 64}, 1);
    pool.run(job);
    EXPECT_TRUE(job.each_ran_once());
  }
}

TEST_P(ThreadPoolSizes, CallersTakeTurns) {
  ThreadPool pool(GetParam());
  std::vector<std::thread> callers;
  std::atomic<bool> good{true};
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int round = 0; round < 20; ++round) {
        const CountingJob job({16, 16}, 1);
        pool.run(job);
        if (!job.each_ran_once() || job.too_early) good = false;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_TRUE(good);
}

INSTANTIATE_TEST_SUITE_P(Exec, ThreadPoolSizes, ::testing::Values(1, 2, 3, 8));

// The threads of a pool stay behind: a job must not wait for them, nor the end of the pool.
TEST(ThreadPool, RefusesToRunInAForkedProcess) {
  auto pool = std::make_unique<ThreadPool>(2);
  pool->run(CountingJob({16}, 1));
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(20);  // ends a child that waits for ever
    int status = 1;
    try {
      pool->run(CountingJob({16}, 1));
    } catch (const Error& error) {
      status = error.code() == ErrorCode::unsupported && error.argument() == "num_threads" ? 0 : 2;
    }
    pool.reset();
    _exit(status);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << "the child was ended by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  const CountingJob job({64}, 1);
  pool->run(job);  // the parent's goes on
  EXPECT_TRUE(job.each_ran_once());
}

// Both threads must be at work at once: each waits for the other.
TEST(ThreadPool, UnitsRunAtTheSameTime) {
  class Meeting final : public Job {
   public:
    int num_phases() const noexcept override { return 1; }
    std::int64_t num_units(int) const noexcept override { return 2; }
    std::int64_t grain(int) const noexcept override { return 1; }
    void work(int, std::int64_t, int) const noexcept override {
      ++here;
      while (here < 2) std::this_thread::yield();
    }
    mutable std::atomic<int> here{0};
  };
  ThreadPool pool(2);
  const Meeting meeting;
  pool.run(meeting);
  EXPECT_EQ(meeting.here, 2);
}

}  // namespace
}  // namespace trunkline::exec
