// One attention, several threads: what the thread sanitizer watches.
#include <gtest/gtest.h>

#include <thread>

#include "exec/batch.hpp"

namespace trunkline::test {
namespace {

BatchSpec batch_of(int index) {
  BatchSpec spec;
  for (int r = 0; r < 6 + index; ++r) spec.requests.push_back({{{0, 6}, {1 + r, 2}}, 7 * 16 + 1 + r % 16, 1 + r % 2});
  return spec;
}

class Concurrency : public ::testing::TestWithParam<int> {};

TEST_P(Concurrency, ThreadsWithTheirOwnWorkspacesShareAnAttention) {
  const Batch shape(batch_of(0));
  const Attention attention(shape.config(), {16, 32, 16}, {},
                            {.num_threads = GetParam(), .simd_target = {}, .device = {}});
  std::vector<std::thread> threads;
  std::array<bool, 4> good{};
  for (int index = 0; index < 4; ++index) {
    threads.emplace_back([&, index] {
      Batch batch(batch_of(index));
      Workspace workspace(attention);
      for (int step = 0; step < 5; ++step) {
        attention.plan(batch.forest(), workspace);
        for (int layer = 0; layer < 4; ++layer) {
          batch.poison_results();
          attention.run(workspace, batch.q(), batch.kv(), batch.out(), batch.lse());
        }
      }
      good[static_cast<std::size_t>(index)] = static_cast<bool>(batch.matches_reference());
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const bool each : good) EXPECT_TRUE(each);
}

INSTANTIATE_TEST_SUITE_P(Threads, Concurrency, ::testing::Values(1, 2, 3));

TEST(ConcurrentReaders, OneForestPlansInSeveralThreads) {
  Batch batch(batch_of(3));
  const Forest forest = batch.forest();
  const Attention attention(batch.config(), batch.capacity());
  std::vector<std::thread> threads;
  for (int index = 0; index < 3; ++index) {
    threads.emplace_back([&] {
      Workspace workspace(attention);
      for (int step = 0; step < 10; ++step) attention.plan(forest, workspace);
      workspace.plan().check(forest);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace trunkline::test
