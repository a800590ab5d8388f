// What design.md promises of plan and run on a CUDA device.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <random>
#include <thread>

#include "exec/cuda_device.hpp"
#include "exec/expect_error.hpp"
#include "exec/server.hpp"
#include "kernels/reference/formats.hpp"

namespace trunkline::test {
namespace {

class CudaContract : public CudaTest {};

BatchSpec shared_batch(int num_requests = 20) {
  BatchSpec spec;
  spec.q_dtype = spec.kv_dtype = DType::bfloat16;
  for (int r = 0; r < num_requests; ++r) {
    spec.requests.push_back({{{0, 12}, {1 + r, 3}}, 14 * 16 + 1 + r % 16, 1 + r % 3});
  }
  return spec;
}

// A layer of a server whose KV is a function of (page, slot).
class Layer {
 public:
  static constexpr int qo_heads = 4, kv_heads = 2, head_dim = 64, max_pages = 3000, max_tokens = 16;
  static constexpr Capacity capacity{16, max_tokens, 200};
  static constexpr std::size_t out_bytes = std::size_t{max_tokens} * qo_heads * head_dim * 2;

  Layer()
      : host_kv_(random(2 * max_pages * Server::page_size * kv_heads * head_dim, 17)),
        host_q_(random(max_tokens * qo_heads * head_dim, 19)),
        kv_(host_kv_),
        q_(host_q_),
        out_(out_bytes) {}

  static AttentionConfig config() {
    AttentionConfig config;
    config.num_qo_heads = qo_heads;
    config.num_kv_heads = kv_heads;
    config.head_dim = head_dim;
    config.page_size = Server::page_size;
    return config;
  }
  void run(const Attention& attention, Workspace& workspace, Stream stream) {
    attention.run(workspace, rows(q_.data(), cuda_device), cache(kv_.data(), cuda_device),
                  rows(out_.data(), cuda_device), {}, stream);
  }
  const DeviceArray& out() const { return out_; }

  ::testing::AssertionResult is_right(const Server& server, std::span<const std::uint16_t> out) {
    std::vector<std::int32_t> indptr{0}, indices, seq_lens;
    for (const Server::Request& request : server.requests()) {
      indices.insert(indices.end(), request.pages.begin(), request.pages.end());
      indptr.push_back(static_cast<std::int32_t>(indices.size()));
      seq_lens.push_back(request.seq_len);
    }
    return is_right(BlockTables::csr(indptr, indices), seq_lens, {}, out);
  }

  ::testing::AssertionResult is_right(const BlockTables& tables, std::span<const std::int32_t> seq_lens,
                                      std::span<const std::int32_t> qo_lens, std::span<const std::uint16_t> out) {
    const ReferenceResult expected = reference_attention(rows(host_q_.data(), {}), cache(host_kv_.data(), {}), tables,
                                                         seq_lens, qo_lens, config().scale());
    for (std::size_t i = 0; i < expected.out.size(); ++i) {
      const double got = reference::load(DType::bfloat16, out.data(), static_cast<std::int64_t>(i));
      if (std::fabs(got - expected.out[i]) <= expected.bound[i]) continue;
      return ::testing::AssertionFailure() << "out[" << i << "] is " << got << ", not " << expected.out[i];
    }
    return ::testing::AssertionSuccess();
  }

 private:
  static std::vector<std::uint16_t> random(std::int64_t count, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    std::vector<std::uint16_t> values(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) {
      reference::store(DType::bfloat16, values.data(), i,
                       static_cast<float>(reference::round_to(DType::bfloat16, normal(generator))));
    }
    return values;
  }
  static TensorView rows(void* data, Device device) {
    return contiguous(data, DType::bfloat16, {max_tokens, qo_heads, head_dim}, 3, device);
  }
  static KvView cache(void* data, Device device) {
    return KvView::interleaved(data, DType::bfloat16, KvLayout::nhd, max_pages, Server::page_size, kv_heads, head_dim,
                               device);
  }

  std::vector<std::uint16_t> host_kv_, host_q_;
  DeviceArray kv_, q_, out_;
};

/// Holds a stream back until it is released. The deadline only ends a run in which the host waits for the stream.
class Hold {
 public:
  explicit Hold(const TestStream& stream) : stream_(stream) {
    require_success(cudaLaunchHostFunc(stream.get(), wait, this));
  }
  ~Hold() {
    release();
    cudaStreamSynchronize(stream_.get());
  }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

  void release() {
    const std::lock_guard lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }
  /// Whether the deadline came first; known once the stream was waited for.
  bool timed_out() const { return timed_out_; }

 private:
  static void wait(void* self) {
    Hold& hold = *static_cast<Hold*>(self);
    std::unique_lock lock(hold.mutex_);
    hold.timed_out_ = !hold.changed_.wait_for(lock, std::chrono::minutes(1), [&] { return hold.released_; });
  }

  const TestStream& stream_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool released_ = false, timed_out_ = false;
};

TEST_P(CudaContract, ACapturedRunFollowsAChangingForest) {
  Layer layer;
  TestStream stream;
  Server server(1);
  const Attention attention(Layer::config(), Layer::capacity, cuda_device, options());
  Workspace workspace(attention), anew(attention);
  attention.plan(server.forest(), workspace, stream);
  const Graph graph(stream, [&] { layer.run(attention, workspace, stream); });
  for (int step = 0; step < 50; ++step) {
    attention.plan(server.forest(), workspace, stream);
    graph.replay(stream);
    stream.wait();
    const std::size_t elements = server.requests().size() * Layer::qo_heads * Layer::head_dim;
    const auto out = layer.out().read<std::uint16_t>(elements);
    EXPECT_TRUE(layer.is_right(server, out)) << "step " << step;

    attention.plan(server.fresh(), anew, stream);
    layer.run(attention, anew, stream);
    stream.wait();
    ASSERT_EQ(layer.out().read<std::uint16_t>(elements), out) << "a direct run has other bits, step " << step;
    server.step();
  }
}

// The stream is held back until the host has queued three steps. Each step's result is copied aside on the stream, so a
// plan that overtook an earlier replay, or was overtaken, shows.
TEST_P(CudaContract, TheHostRunsStepsAhead) {
  constexpr int steps = 12;
  Layer layer;
  TestStream stream;
  const Attention attention(Layer::config(), Layer::capacity, cuda_device, options());
  Workspace workspace(attention);
  const DeviceArray results(steps * Layer::out_bytes);
  std::vector<Server> servers;
  {
    Server server(2);
    for (int step = 0; step < steps; ++step, server.step()) servers.push_back(server);
  }
  attention.plan(servers[0].forest(), workspace, stream);
  const Graph graph(stream, [&] { layer.run(attention, workspace, stream); });
  stream.wait();
  Hold hold(stream);
  Server server(2);  // its forest advances, so that plans are refreshed by their changes
  for (int step = 0; step < steps; ++step, server.step()) {
    attention.plan(server.forest(), workspace, stream);
    graph.replay(stream);
    require_success(cudaMemcpyAsync(results.data() + step * Layer::out_bytes, layer.out().data(), Layer::out_bytes,
                                    cudaMemcpyDeviceToDevice, stream.get()));
    if (step == 2) hold.release();
  }
  stream.wait();
  EXPECT_FALSE(hold.timed_out()) << "the host waited for the device";
  const auto out = results.read<std::uint16_t>(steps * Layer::out_bytes / 2);
  for (int step = 0; step < steps; ++step) {
    const std::span<const std::uint16_t> of_step(out.data() + step * Layer::out_bytes / 2, Layer::out_bytes / 2);
    EXPECT_TRUE(layer.is_right(servers[static_cast<std::size_t>(step)], of_step)) << "step " << step;
  }
}

TEST_P(CudaContract, PlanIsRefusedWhileItsStreamCaptures) {
  Layer layer;
  TestStream stream, other;
  Server server(3);
  const Attention attention(Layer::config(), Layer::capacity, cuda_device, options());
  Workspace workspace(attention), another(attention);
  attention.plan(server.forest(), workspace, stream);
  const std::size_t planned = workspace.plan().items.size();
  const Server before = server;
  for (int step = 0; step < 5; ++step) server.step();
  const Graph graph(stream, [&] {
    layer.run(attention, workspace, stream);
    expect_error(
        [&] { attention.plan(server.forest(), workspace, stream); },
        "invalid_argument: stream: expected a stream that does not capture: plan between replays, got one that "
        "captures a graph");
    attention.plan(server.forest(), another, other);  // another stream may be planned on
  });
  EXPECT_EQ(workspace.plan().items.size(), planned);
  graph.replay(stream);
  stream.wait();
  const std::size_t elements = before.requests().size() * Layer::qo_heads * Layer::head_dim;
  EXPECT_TRUE(layer.is_right(before, layer.out().read<std::uint16_t>(elements)));
}

TEST_P(CudaContract, TwoStreamsWithTwoWorkspaces) {
  Batch shapes[] = {Batch(shared_batch(20)), Batch(shared_batch(9))};
  const Attention attention(shapes[0].config(), shapes[0].capacity(), cuda_device, options());
  std::vector<std::thread> threads;
  for (Batch& batch : shapes) {
    threads.emplace_back([&] {
      TestStream stream;
      DeviceBatch device(batch);
      Workspace workspace(attention);
      const Forest forest = batch.forest();
      for (int step = 0; step < 20; ++step) {
        attention.plan(forest, workspace, stream);
        for (int layer = 0; layer < 4; ++layer) {
          attention.run(workspace, device.q(), device.kv(), device.out(), device.lse(), stream);
        }
      }
      stream.wait();
      device.fetch();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (Batch& batch : shapes) EXPECT_TRUE(batch.matches_reference());
}

TEST_P(CudaContract, RowsClampToShorterLengthsOnTheDevice) {
  BatchSpec spec;
  spec.q_dtype = spec.kv_dtype = DType::bfloat16;
  for (int r = 0; r < 8; ++r) spec.requests.push_back({{{0, 6}, {1 + r, 2}}, 7 * 16 + 1 + r});
  for (const Strategy strategy : {Strategy::automatic, Strategy::unshared, Strategy::hydragen}) {
    spec.strategy = strategy;
    Batch batch(spec);
    DeviceBatch device(batch);
    const Attention attention(batch.config(), batch.capacity(), cuda_device, options());
    Workspace workspace(attention);
    attention.plan(batch.forest(), workspace);
    // As planned, one less, within the shared part, at its edge, one token, none.
    std::vector<std::int32_t> lengths = batch.seq_lens();
    lengths[1] -= 1;
    lengths[2] = 50;
    lengths[3] = 96;
    lengths[4] = 1;
    lengths[5] = 0;
    const DeviceArray seq_lens(lengths);
    attention.run(workspace, device.q(), device.kv(), device.out(), device.lse(), {}, seq_lens.as<std::int32_t>());
    device.fetch();
    EXPECT_TRUE(batch.matches_reference(true, lengths)) << to_string(strategy);
  }
}

TEST_P(CudaContract, RunsRepeatToTheBit) {
  for (const Strategy strategy : {Strategy::automatic, Strategy::two_phase, Strategy::hydragen}) {
    BatchSpec spec = shared_batch();
    spec.strategy = strategy;
    Batch batch(spec);
    DeviceBatch device(batch);
    TestStream stream;
    const Attention attention(batch.config(), batch.capacity(), cuda_device, options());
    Workspace workspace(attention);
    attention.plan(batch.forest(), workspace, stream);
    const auto run = [&] { attention.run(workspace, device.q(), device.kv(), device.out(), device.lse(), stream); };
    const Graph graph(stream, run);
    run();
    stream.wait();
    device.fetch();
    const auto expected = batch.result();
    EXPECT_TRUE(batch.matches_reference());
    for (int again = 0; again < 20; ++again) {
      device.poison();
      if (again % 2 == 0) {
        run();
      } else {
        graph.replay(stream);
      }
      stream.wait();
      device.fetch();
      ASSERT_EQ(batch.result(), expected) << again << ", " << to_string(strategy);
    }
  }
}

TEST_P(CudaContract, AWorkspaceInTheCallersMemory) {
  Batch batch(shared_batch());
  DeviceBatch device(batch);
  const Attention attention(batch.config(), batch.capacity(), cuda_device, options());
  const std::size_t bytes = attention.workspace_bytes();
  const std::vector<std::byte> poison(bytes + 512, std::byte{0xff});  // NaN and invalid pages
  const DeviceArray memory(poison);
  expect_error([&] { Workspace(attention, memory.data() + 64, bytes); },
               "invalid_argument: memory: expected an address aligned to 256 bytes, got 64 bytes past one");
  expect_error([&] { Workspace(attention, memory.data(), bytes - 1); },
               "invalid_argument: bytes: expected at least " + std::to_string(bytes) + " (workspace_bytes()), got " +
                   std::to_string(bytes - 1));
  alignas(256) static std::byte host[256];
  expect_error([&] { Workspace(attention, host, bytes); },
               "invalid_argument: memory: expected memory of cuda:0, got host memory");
  {
    Workspace workspace(attention, memory.data(), bytes);
    attention.plan(batch.forest(), workspace);
    attention.run(workspace, device.q(), device.kv(), device.out(), device.lse());
  }
  device.fetch();
  EXPECT_TRUE(batch.matches_reference());
  const auto after = memory.read<std::byte>(bytes + 512);
  for (std::size_t i = bytes; i < bytes + 512; ++i) ASSERT_EQ(after[i], std::byte{0xff}) << "written beyond";
}

TEST_P(CudaContract, TheGridIsAsLargeAsAskedFor) {
  Batch batch(shared_batch());
  int most = 0;
  {
    const Attention attention(batch.config(), batch.capacity(), cuda_device, options());
    most = attention.num_ctas();
    EXPECT_EQ(attention.kernel(), std::string("cuda/") + GetParam());
    EXPECT_EQ(attention.device(), cuda_device);
  }
  for (const int num_ctas : {1, 2, 7, most / 2, most}) {
    ExecutionOptions with = options();
    with.num_ctas = num_ctas;
    EXPECT_EQ(Attention(batch.config(), batch.capacity(), cuda_device, with).num_ctas(), num_ctas);
    compute_on_device(batch, with);
    EXPECT_TRUE(batch.matches_reference()) << num_ctas;
  }
  ExecutionOptions with = options();
  with.num_ctas = most + 1;
  expect_error([&] { Attention(batch.config(), batch.capacity(), cuda_device, with); },
               "invalid_argument: options.num_ctas: expected 1 to " + std::to_string(most) +
                   ", what the device holds at once (0: all), got " + std::to_string(most + 1));
}

TEST_P(CudaContract, PlansFollowEachOther) {
  const Capacity capacity{32, 128, 32};
  std::unique_ptr<Attention> attention;
  std::unique_ptr<Workspace> workspace;
  for (int round = 0; round < 2; ++round) {
    for (const NamedRequests& requests : corner_cases(16)) {
      BatchSpec spec;
      spec.requests = requests.requests;
      spec.q_dtype = spec.kv_dtype = DType::bfloat16;
      Batch batch(spec);
      DeviceBatch device(batch);
      if (!attention) {
        attention = std::make_unique<Attention>(batch.config(), capacity, cuda_device, options());
        workspace = std::make_unique<Workspace>(*attention);
      }
      attention->plan(batch.forest(), *workspace);
      attention->run(*workspace, device.q(), device.kv(), device.out(), device.lse());
      device.fetch();
      EXPECT_TRUE(batch.matches_reference()) << requests.name;
    }
  }
}

// A table of more entries than a pinned slot takes at once, in rows of more than a block of threads copies. Most
// requests have no query tokens; those that have differ in length and pages.
TEST_P(CudaContract, TablesLargerThanASlot) {
  constexpr int num_requests = 300, width = 4000;
  std::mt19937 random(23);
  std::vector<std::int32_t> table(std::size_t{num_requests} * width), seq_lens, qo_lens;
  std::ranges::generate(table, [&] { return static_cast<std::int32_t>(random() % Layer::max_pages); });
  for (int r = 0; r < num_requests; ++r) {
    const bool asks = r % 19 == 0;  // 16 of them
    qo_lens.push_back(asks ? 1 : 0);
    seq_lens.push_back(asks && r % 5 != 0 ? 200 + r : width * Server::page_size - r % 7);
  }
  const auto tables = BlockTables::dense(table, num_requests, width);
  BatchOptions batch_options;
  batch_options.qo_lens = qo_lens;
  const Forest forest = Forest::from_block_tables(tables, seq_lens, Server::page_size, batch_options);

  Layer layer;
  TestStream stream;
  const Attention attention(Layer::config(), {num_requests, Layer::max_tokens, width}, cuda_device, options());
  Workspace workspace(attention);
  attention.plan(forest, workspace, stream);
  layer.run(attention, workspace, stream);
  stream.wait();
  EXPECT_TRUE(layer.is_right(tables, seq_lens, qo_lens, layer.out().read<std::uint16_t>(Layer::out_bytes / 2)));
}

// A forest that once held more requests than the capacity has rows beyond it.
TEST_P(CudaContract, AForestThatWasLargerThanTheCapacity) {
  Layer layer;
  TestStream stream;
  Server server(4);
  while (server.requests().size() < 9) server.step();
  Forest forest = server.fresh();
  Deltas deltas;
  for (std::size_t r = 0; r + 4 < server.requests().size(); ++r) deltas.leave.push_back(server.requests()[r].id);
  forest.advance(deltas);
  while (server.requests().size() > 4) server.drop_first();
  const Attention attention(Layer::config(), {4, 8, 200}, cuda_device, options());
  Workspace workspace(attention);
  attention.plan(forest, workspace, stream);
  layer.run(attention, workspace, stream);
  stream.wait();
  EXPECT_TRUE(layer.is_right(server, layer.out().read<std::uint16_t>(4 * Layer::qo_heads * Layer::head_dim)));
}

TEST_P(CudaContract, ManyForestsWithinOneCapacity) {
  Layer layer;
  TestStream stream;
  const Attention attention(Layer::config(), Layer::capacity, cuda_device, options());
  Workspace workspace(attention);
  for (unsigned seed = 10; seed < 40; ++seed) {
    Server server(seed);
    for (unsigned step = 0; step < seed; ++step) server.step();
    attention.plan(server.forest(), workspace, stream);
    layer.run(attention, workspace, stream);
    stream.wait();
    const std::size_t elements = server.requests().size() * Layer::qo_heads * Layer::head_dim;
    EXPECT_TRUE(layer.is_right(server, layer.out().read<std::uint16_t>(elements))) << "seed " << seed;
  }
}

TRUNKLINE_CUDA_KERNELS(CudaContract);

}  // namespace
}  // namespace trunkline::test
