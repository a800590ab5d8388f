// What design.md promises of plan and run, beside the numbers.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "exec/batch.hpp"
#include "exec/expect_error.hpp"

namespace trunkline::test {
namespace {

BatchSpec shared_batch() {
  BatchSpec spec;
  spec.kv_dtype = spec.q_dtype = DType::bfloat16;
  for (int r = 0; r < 20; ++r) spec.requests.push_back({{{0, 12}, {1 + r, 3}}, 14 * 16 + 1 + r % 16, 1 + r % 3});
  return spec;
}

TEST(Contract, EveryNumberOfThreadsGivesTheSameBits) {
  for (const Strategy strategy : {Strategy::automatic, Strategy::two_phase, Strategy::hydragen}) {
    BatchSpec spec = shared_batch();
    spec.strategy = strategy;
    Batch b(spec);
    const DeviceSpec device = DeviceSpec::generic_cpu(4);
    compute(b, {.num_threads = 1, .simd_target = {}, .device = device});
    EXPECT_TRUE(b.matches_reference());
    const auto expected = b.result();
    for (const int threads : {1, 2, 3, 8}) {
      for (int again = 0; again < 3; ++again) {
        compute(b, {.num_threads = threads, .simd_target = {}, .device = device});
        EXPECT_EQ(b.result(), expected) << threads << " threads, " << to_string(strategy);
      }
    }
  }
}

TEST(Contract, RunsRepeatToTheBitOnOneWorkspace) {
  Batch b(shared_batch());
  const Attention attention(b.config(), b.capacity(), {}, {.num_threads = 2, .simd_target = {}, .device = {}});
  Workspace workspace(attention);
  attention.plan(b.forest(), workspace);
  attention.run(workspace, b.q(), b.kv(), b.out(), b.lse());
  const auto expected = b.result();
  for (int again = 0; again < 10; ++again) {
    b.poison_results();
    attention.run(workspace, b.q(), b.kv(), b.out(), b.lse());
    ASSERT_EQ(b.result(), expected);
  }
}

TEST(Contract, TheForcedSimdTargetRuns) {
  const auto targets = simd_targets();
  ASSERT_FALSE(targets.empty());
  const Batch shape(shared_batch());
  EXPECT_EQ(Attention(shape.config(), shape.capacity()).kernel(), "cpu/" + targets.front());
  std::vector<std::vector<std::byte>> results;
  for (const std::string& target : targets) {
    Batch b(shared_batch());
    const ExecutionOptions options{.num_threads = 1, .simd_target = target, .device = {}};
    EXPECT_EQ(Attention(b.config(), b.capacity(), {}, options).kernel(), "cpu/" + target);
    compute(b, options);
    results.push_back(b.result());
  }
  // Vectors of another width sum in another order, so the widest and the narrowest target cannot give the same bits.
  if (targets.size() > 1) {
    EXPECT_NE(results.front(), results.back());
  }
}

TEST(Contract, RowsClampToShorterLengths) {
  BatchSpec spec;
  for (int r = 0; r < 8; ++r) spec.requests.push_back({{{0, 6}, {1 + r, 2}}, 7 * 16 + 1 + r});
  for (const Strategy strategy : {Strategy::automatic, Strategy::unshared, Strategy::hydragen}) {
    spec.strategy = strategy;
    Batch b(spec);
    const Attention attention(b.config(), b.capacity());
    Workspace workspace(attention);
    attention.plan(b.forest(), workspace);
    // As planned, one less, within the shared part, at its edge, one token, none.
    std::vector<std::int32_t> lengths = b.seq_lens();
    lengths[1] -= 1;
    lengths[2] = 50;
    lengths[3] = 96;
    lengths[4] = 1;
    lengths[5] = 0;
    attention.run(workspace, b.q(), b.kv(), b.out(), b.lse(), {}, lengths.data());
    EXPECT_TRUE(b.matches_reference(true, lengths)) << to_string(strategy);
  }
}

TEST(Contract, AWorkspaceInTheCallersMemory) {
  Batch b(shared_batch());
  const Attention attention(b.config(), b.capacity(), {}, {.num_threads = 2, .simd_target = {}, .device = {}});
  const std::size_t bytes = attention.workspace_bytes();
  std::unique_ptr<std::byte, decltype(&std::free)> memory(static_cast<std::byte*>(std::aligned_alloc(64, bytes + 64)),
                                                          &std::free);
  std::memset(memory.get(), 0xff, bytes + 64);  // what it held before must not matter: NaN and invalid pages
  {
    Workspace workspace(attention, memory.get(), bytes);
    attention.plan(b.forest(), workspace);
    attention.run(workspace, b.q(), b.kv(), b.out(), b.lse());
  }
  EXPECT_TRUE(b.matches_reference());
  for (std::size_t i = bytes; i < bytes + 64; ++i) ASSERT_EQ(memory.get()[i], std::byte{0xff}) << "written beyond";
}

TEST(Contract, AWorkspaceMayBeMoved) {
  Batch b(shared_batch());
  Attention first(b.config(), b.capacity());
  Workspace made(first);
  first.plan(b.forest(), made);
  const Attention attention = std::move(first);
  Workspace workspace = std::move(made);
  attention.run(workspace, b.q(), b.kv(), b.out(), b.lse());
  EXPECT_TRUE(b.matches_reference());
}

TEST(Contract, LayersOfEqualSizesShareAPlan) {
  Batch b(shared_batch());
  const Attention planner(b.config(), b.capacity());
  AttentionConfig config = b.config();
  config.sm_scale = 0.25f;
  const Attention other(config, b.capacity());
  Workspace workspace(planner), own(other);
  planner.plan(b.forest(), workspace);
  other.plan(b.forest(), own);
  other.run(own, b.q(), b.kv(), b.out(), b.lse());
  const auto expected = b.result();
  b.poison_results();
  other.run(workspace, b.q(), b.kv(), b.out(), b.lse());
  EXPECT_EQ(b.result(), expected);
  planner.run(workspace, b.q(), b.kv(), b.out(), b.lse());
  EXPECT_NE(b.result(), expected) << "the scale had no effect";
}

// The forest may go: run reads the workspace's own copies.
TEST(Contract, TheForestMayGoAfterPlan) {
  Batch b(shared_batch());
  const Attention attention(b.config(), b.capacity());
  Workspace workspace(attention);
  {
    auto forest = std::make_unique<Forest>(b.forest());
    attention.plan(*forest, workspace);
  }
  attention.run(workspace, b.q(), b.kv(), b.out(), b.lse());
  EXPECT_TRUE(b.matches_reference());
}

TEST(Contract, ABatchSmallerThanTheCapacity) {
  Batch b(shared_batch());
  Capacity capacity = b.capacity();
  capacity.max_requests += 7;
  capacity.max_query_tokens += 50;
  capacity.max_table_width += 13;
  const Attention attention(b.config(), capacity);
  Workspace workspace(attention);
  attention.plan(b.forest(), workspace);
  attention.run(workspace, b.q(), b.kv(), b.out(), b.lse());
  EXPECT_TRUE(b.matches_reference());
}

TEST(Contract, PlansFollowEachOther) {
  std::vector<NamedRequests> cases = corner_cases(16);
  Capacity capacity{32, 128, 32};
  std::unique_ptr<Attention> attention;
  std::unique_ptr<Workspace> workspace;
  for (int round = 0; round < 2; ++round) {
    for (const NamedRequests& requests : cases) {
      BatchSpec spec;
      spec.requests = requests.requests;
      Batch b(spec);
      if (!attention) {
        attention = std::make_unique<Attention>(b.config(), capacity);
        workspace = std::make_unique<Workspace>(*attention);
      }
      attention->plan(b.forest(), *workspace);
      attention->run(*workspace, b.q(), b.kv(), b.out(), b.lse());
      EXPECT_TRUE(b.matches_reference()) << requests.name;
    }
  }
}

TEST(Contract, ZeroRequestsNeedNoMemory) {
  const Batch shape(shared_batch());
  const Attention attention(shape.config(), {0, 0, 0});
  Workspace workspace(attention);
  attention.plan(Forest(), workspace);
  const std::array<std::int64_t, 4> none{0, 4, 64};
  const TensorView empty = contiguous(nullptr, DType::bfloat16, none, 3);
  const KvView no_pages = KvView::interleaved(nullptr, DType::bfloat16, KvLayout::nhd, 0, 16, 2, 64);
  attention.run(workspace, empty, no_pages, empty);
  EXPECT_TRUE(workspace.plan().items.empty());
}

TEST(Contract, AccessorsTellWhatWasAskedFor) {
  const Batch b(shared_batch());
  const Attention attention(b.config(), b.capacity(), {}, {.num_threads = 3, .simd_target = {}, .device = {}});
  EXPECT_EQ(attention.num_threads(), 3);
  EXPECT_EQ(attention.device(), Device{});
  EXPECT_EQ(attention.device_spec().num_workers, 3);
  EXPECT_EQ(attention.capacity().max_table_width, b.capacity().max_table_width);
  EXPECT_EQ(attention.config().head_dim, 64);
  EXPECT_GT(attention.workspace_bytes(), 0u);
  Workspace workspace(attention);
  EXPECT_TRUE(workspace.plan().items.empty());
}

}  // namespace
}  // namespace trunkline::test
