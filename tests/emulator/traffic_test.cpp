// What the copies of the Hopper kernel read of the KV cache, counted: what the plan says, and so every distinct page
// once where sharing pays.
#include "emulator/traffic.hpp"

#include <gtest/gtest.h>

#include "exec/cuda_device.hpp"

namespace trunkline::test {
namespace {

struct Bytes {
  std::uint64_t read;     // by the kernel
  std::uint64_t planned;  // by its items
};

constexpr int head_dim = 128, kv_heads = 2;
constexpr std::uint64_t token_bytes = 2 * 2 * kv_heads * head_dim;  // K and V, 2 bytes each

/// Requests that share `shared` tokens, each with `own` and up to `more` beside.
Bytes run(Strategy strategy, int page_size, int num_requests, int shared, int own, int more) {
  BatchSpec spec;
  spec.num_qo_heads = 2 * kv_heads;
  spec.num_kv_heads = kv_heads;
  spec.head_dim = head_dim;
  spec.page_size = page_size;
  spec.q_dtype = spec.kv_dtype = DType::bfloat16;
  spec.strategy = strategy;
  const auto pages = [&](int tokens) { return (tokens + page_size - 1) / page_size; };
  for (int i = 0; i < num_requests; ++i) {
    RequestSpec request;
    request.runs = {{0, shared / page_size}, {1 + i, pages(own + more)}};
    request.seq_len = shared + own + (more > 0 ? i % more : 0);
    spec.requests.push_back(request);
  }
  Batch batch(spec);
  ExecutionOptions options;
  options.kernel = "sm90";
  const Attention attention(batch.config(), batch.capacity(), cuda_device, options);
  Workspace workspace(attention);
  DeviceBatch device(batch);
  attention.plan(batch.forest(), workspace);
  const emulator::Traffic traffic(device.kv().k.data, batch.kv_memory().size());
  attention.run(workspace, device.q(), device.kv(), device.out(), device.lse());
  device.fetch();
  EXPECT_TRUE(batch.matches_reference());
  return {traffic.bytes(), static_cast<std::uint64_t>(workspace.plan().model.kv_bytes)};
}

TEST(Traffic, EveryDistinctPageIsReadOnce) {
  const Bytes bytes = run(Strategy::automatic, 16, 32, 1600, 48, 0);
  EXPECT_EQ(bytes.planned, (1600 + 32 * 48) * token_bytes);
  EXPECT_EQ(bytes.read, bytes.planned);
}

TEST(Traffic, PlainDecodeReadsThemForEveryRequest) {
  const Bytes bytes = run(Strategy::unshared, 16, 8, 320, 48, 0);
  EXPECT_EQ(bytes.planned, 8 * (320 + 48) * token_bytes);
  EXPECT_EQ(bytes.read, bytes.planned);
}

/// Pages that the copy engine cannot bring are gathered token by token, to the last one that counts.
TEST(Traffic, TokensAreGatheredAsPlanned) {
  for (const Strategy strategy : {Strategy::automatic, Strategy::two_phase, Strategy::hydragen, Strategy::unshared}) {
    const Bytes bytes = run(strategy, 5, 12, 450, 30, 7);
    EXPECT_EQ(bytes.read, bytes.planned) << to_string(strategy);
  }
}

}  // namespace
}  // namespace trunkline::test
