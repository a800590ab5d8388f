// What Attention refuses on a CUDA device, by its message; what is refused has changed nothing.
#include "exec/cuda_device.hpp"
#include "exec/expect_error.hpp"

namespace trunkline::test {
namespace {

BatchSpec small_batch() {
  BatchSpec spec;
  spec.q_dtype = spec.kv_dtype = DType::bfloat16;
  spec.requests = {{{{0, 3}, {1, 1}}, 50}, {{{0, 3}, {2, 1}}, 60, 2}};
  return spec;
}

TEST(CudaWithoutADevice, ConstructionSaysWhy) {
  const Backend cuda = backends()[0];
  ASSERT_TRUE(cuda.built);
  if (cuda.available) GTEST_SKIP() << "there is a device: " << cuda.detail;
  const Batch batch(small_batch());
  try {
    Attention(batch.config(), batch.capacity(), cuda_device);
    ADD_FAILURE() << "made without a device";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::device_error);
    EXPECT_EQ(error.argument(), "device");
    EXPECT_EQ(error.expected(), "a usable CUDA device");
    EXPECT_FALSE(error.got().empty());
  }
  EXPECT_FALSE(cuda.detail.empty());
}

class CudaErrors : public CudaTest {};

TEST_P(CudaErrors, Construction) {
  const Batch batch(small_batch());
  const auto message = [&](auto change) -> std::string {
    AttentionConfig config = batch.config();
    ExecutionOptions with = options();
    Device device = cuda_device;
    change(config, with, device);
    try {
      Attention(config, batch.capacity(), device, with);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  };
  const std::string name = GetParam();
  EXPECT_EQ(message([](auto&, auto&, auto&) {}), "accepted");
  EXPECT_EQ(message([](auto&, ExecutionOptions& with, auto&) {
              with.kernel = "sm70";
            }).find("unsupported: options.kernel: expected one of "),
            0u);
  EXPECT_EQ(message([](AttentionConfig& config, auto&, auto&) { config.q_dtype = config.kv_dtype = DType::float32; }),
            "unsupported: options.kernel: expected what a CUDA kernel of this build computes on this device, got " +
                name + " does not compute head_dim 64, q float32, KV float32");
  EXPECT_NE(message([](AttentionConfig& config, ExecutionOptions& with, auto&) {
              config.head_dim = 24;
              with.kernel.clear();
            }).find("unsupported: config: "),
            std::string::npos);
  EXPECT_NE(
      message([](auto&, auto&, Device& device) { device.index = 99; }).find("device_error: device: expected one of"),
      std::string::npos);
  EXPECT_EQ(message([](auto&, ExecutionOptions& with, auto&) {
              with.device = DeviceSpec::h200();
              with.device->num_workers = 1;  // any device has that many
              with.device->wide.max_rows = 1024;
            }).find("invalid_argument: options.device.wide.max_rows: expected at most "),
            0u);
  if (name == "sm80") {
    EXPECT_EQ(message([](auto&, ExecutionOptions& with, auto&) { with.device = DeviceSpec::h200(); })
                  .find("invalid_argument: options.device.paired_flops: expected 0, as items of 256 rows are more than "
                        "one can have of cuda/sm80, got "),
              0u);
  }
  if (name == "sm90") {
    EXPECT_EQ(message([](auto&, ExecutionOptions& with, auto&) {
                with.device = DeviceSpec::h200();
                with.device->num_workers = 1;  // any device has that many
                with.device->narrow.row_granule = 4;
              }),
              "invalid_argument: options.device.narrow.row_granule: expected a multiple of 8, as cuda/sm90 cuts items "
              "between rows, got 4");
  }
}

TEST_P(CudaErrors, MemoryThatIsNotThere) {
  const Batch batch(small_batch());
  const Attention attention(batch.config(), {4096, 4096, 1 << 26}, cuda_device, options());  // a table of a TiB
  const std::size_t bytes = attention.workspace_bytes();
  EXPECT_GT(bytes, std::size_t{1} << 40);
  expect_error([&] { Workspace workspace(attention); },
               "device_error: cudaMalloc: expected " + std::to_string(bytes) +
                   " bytes of the device, got cudaErrorMemoryAllocation (out of memory)");
}

TEST_P(CudaErrors, CapacityExceededSaysByHowMuch) {
  Batch batch(small_batch());
  DeviceBatch device(batch);
  const Attention attention(batch.config(), batch.capacity(), cuda_device, options());
  Workspace workspace(attention);
  attention.plan(batch.forest(), workspace);
  const auto plan = [&](std::vector<RequestSpec> requests) {
    BatchSpec spec = small_batch();
    spec.requests = std::move(requests);
    return [&, spec] { attention.plan(Batch(spec).forest(), workspace); };
  };
  expect_error(
      plan({{{{0, 1}}, 1}, {{{0, 1}}, 1}, {{{0, 1}}, 1}}),
      "capacity_exceeded: forest.num_requests: expected at most 2 (capacity.max_requests), got 3 (1 too many)");
  expect_error(
      plan({{{{0, 1}}, 9, 5}}),
      "capacity_exceeded: forest.num_query_tokens: expected at most 3 (capacity.max_query_tokens), got 5 (2 too "
      "many)");
  expect_error(plan({{{{0, 7}}, 7 * 16}}),
               "capacity_exceeded: forest.table width: expected at most 4 (capacity.max_table_width), got 7 (3 too "
               "many)");
  attention.run(workspace, device.q(), device.kv(), device.out(), device.lse());
  device.fetch();
  EXPECT_TRUE(batch.matches_reference()) << "the workspace lost its last plan";
}

TEST_P(CudaErrors, MemoryOfAnotherDevice) {
  Batch batch(small_batch());
  DeviceBatch device(batch);
  const Attention attention(batch.config(), batch.capacity(), cuda_device, options());
  Workspace workspace(attention);
  expect_error([&] { attention.run(workspace, device.q(), device.kv(), device.out()); },
               "invalid_argument: workspace: expected a workspace with a plan: call plan() first, got one without");
  attention.plan(batch.forest(), workspace);
  const auto run = [&](TensorView q, KvView kv, TensorView out, TensorView lse = {},
                       const std::int32_t* seq_lens = nullptr) {
    return [=, &attention, &workspace] { attention.run(workspace, q, kv, out, lse, {}, seq_lens); };
  };
  // Host tensors that say so, then such as claim to be on the device.
  expect_error(run(batch.q(), device.kv(), device.out()), "invalid_argument: q.device: expected cuda:0, got cpu");
  expect_error(run(device.q(), batch.kv(), device.out()), "invalid_argument: kv.device: expected cuda:0, got cpu");
  const auto claim = [](auto view) {
    view.device = cuda_device;
    return view;
  };
  const std::string memory = ": expected memory of cuda:0, got host memory";
  expect_error(run(claim(batch.q()), device.kv(), device.out()), "invalid_argument: q.data" + memory);
  expect_error(run(device.q(), claim(batch.kv()), device.out()), "invalid_argument: kv.k" + memory);
  expect_error(run(device.q(), device.kv(), claim(batch.out())), "invalid_argument: out.data" + memory);
  expect_error(run(device.q(), device.kv(), device.out(), claim(batch.lse())), "invalid_argument: lse.data" + memory);
  expect_error(run(device.q(), device.kv(), device.out(), {}, batch.seq_lens().data()),
               "invalid_argument: seq_lens" + memory);
  device.fetch();
  const Batch untouched(small_batch());
  EXPECT_EQ(batch.result(), untouched.result()) << "written before validation was complete";

  // A workspace of the CPU, and one of another grid.
  const Attention cpu(batch.config(), batch.capacity());
  Workspace of_cpu(cpu);
  const std::string workspaces =
      "invalid_argument: workspace: expected one that was made for this attention, got one of another configuration, "
      "capacity, device or number of workers";
  expect_error([&] { attention.plan(batch.forest(), of_cpu); }, workspaces);
  expect_error([&] { cpu.plan(batch.forest(), workspace); }, workspaces);
}

TEST_P(CudaErrors, PagesBeyondTheCache) {
  Batch batch(small_batch());
  DeviceBatch device(batch);
  const Attention attention(batch.config(), batch.capacity(), cuda_device, options());
  Workspace workspace(attention);
  attention.plan(batch.forest(), workspace);
  std::int32_t largest = 0;
  for (const int request : {0, 1}) {
    for (const std::int32_t page : batch.pages(request)) largest = std::max(largest, page);
  }
  KvView kv = device.kv();
  kv.num_pages = largest;
  expect_error([&] { attention.run(workspace, device.q(), kv, device.out()); },
               "invalid_argument: kv.num_pages: expected more than page " + std::to_string(largest) +
                   " of the planned block tables, got " + std::to_string(largest));
}

TRUNKLINE_CUDA_KERNELS(CudaErrors);

}  // namespace
}  // namespace trunkline::test
