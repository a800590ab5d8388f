// Every error of Attention and Workspace, by its message; what is refused has changed nothing.
#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <new>

#include "exec/batch.hpp"
#include "exec/expect_error.hpp"

namespace trunkline::test {
namespace {

BatchSpec small_batch() {
  BatchSpec spec;
  spec.requests = {{{{0, 3}, {1, 1}}, 50}, {{{0, 3}, {2, 1}}, 60, 2}};
  return spec;
}

TEST(AttentionErrors, Construction) {
  const Batch b(small_batch());
  const auto make = [&](auto change, ExecutionOptions options = {}, Device device = {}) {
    AttentionConfig config = b.config();
    Capacity capacity = b.capacity();
    change(config, capacity);
    return [=] { Attention(config, capacity, device, options); };
  };
  const auto nothing = [](auto&, auto&) {};
  if (!backends()[0].built) {
    expect_error(make(nothing, {}, {DeviceKind::cuda, 0}),
                 "unsupported: device: expected cpu, since this build has no CUDA backend, got cuda:0");
  }
  expect_error(
      make(nothing, {.num_threads = 1, .simd_target = {}, .device = {}, .kernel = "sm90"}),
      "unsupported: options.kernel: expected '' on the CPU, whose kernels are options.simd_target, got 'sm90'");
  expect_error(make(nothing, {.num_threads = 1, .simd_target = {}, .device = {}, .kernel = {}, .num_ctas = 3}),
               "invalid_argument: options.num_ctas: expected 0 on the CPU, got 3");
  expect_error(make(nothing, {.num_threads = 0, .simd_target = {}, .device = {}}),
               "invalid_argument: options.num_threads: expected 1 to 4096, got 0");
  std::string targets;
  for (const std::string& name : simd_targets()) targets += (targets.empty() ? "" : ", ") + name;
  expect_error(make(nothing, {.num_threads = 1, .simd_target = "mmx", .device = {}}),
               "unsupported: options.simd_target: expected one of " + targets + ", got 'mmx'");
  DeviceSpec device = DeviceSpec::generic_cpu(1);
  device.wide.max_rows = 257;
  expect_error(make(nothing, {.num_threads = 1, .simd_target = {}, .device = device}),
               "invalid_argument: options.device.wide.max_rows: expected at most 256, the most rows of an item on the "
               "CPU, got 257");
  device = DeviceSpec::generic_cpu(1);
  device.paired_flops = 1e9;
  expect_error(make(nothing, {.num_threads = 1, .simd_target = {}, .device = device}),
               "invalid_argument: options.device.paired_flops: expected 0, as items of 512 rows are more than one can "
               "have on the CPU, got 1000000000.000000");
  device = DeviceSpec::generic_cpu(1);
  device.read_bandwidth = std::numeric_limits<double>::quiet_NaN();
  expect_error(make(nothing, {.num_threads = 1, .simd_target = {}, .device = device}),
               "invalid_argument: device.read_bandwidth: expected a finite number above 0, got nan");
  expect_error(
      make([](AttentionConfig& config, Capacity&) { config.sm_scale = std::numeric_limits<float>::quiet_NaN(); }),
      "invalid_argument: config.sm_scale: expected a finite number, got nan");
  expect_error(make([](AttentionConfig& config, Capacity&) { config.num_kv_heads = 3; }),
               "invalid_argument: config.num_kv_heads: expected a divisor of num_qo_heads = 4, got 3");
  expect_error(make([](AttentionConfig& config, Capacity&) { config.head_dim = 257; }),
               "invalid_argument: config.head_dim: expected 1 to 256, got 257");
  expect_error(make([](AttentionConfig&, Capacity& capacity) { capacity.max_requests = -1; }),
               "invalid_argument: capacity.max_requests: expected 0 or more, got -1");
}

TEST(AttentionErrors, FeaturesThatAreNotBuiltAreNamed) {
  const Batch b(small_batch());
  const auto message = [&](auto change) {
    AttentionConfig config = b.config();
    change(config);
    try {
      Attention attention(config, b.capacity());
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::unsupported);
      return error.argument();
    }
    return std::string("accepted");
  };
  EXPECT_EQ(message([](auto& c) { c.sliding_window = 128; }), "config.sliding_window");
  EXPECT_EQ(message([](auto& c) { c.logits_soft_cap = 30.0f; }), "config.logits_soft_cap");
  EXPECT_EQ(message([](auto& c) { c.alibi = true; }), "config.alibi");
  EXPECT_EQ(message([](auto& c) { c.attention_sinks = true; }), "config.attention_sinks");
  EXPECT_EQ(message([](auto& c) { c.head_dim_vo = 32; }), "config.head_dim_vo");
  EXPECT_EQ(message([](auto& c) { c.kv_dtype = DType::float8_e4m3; }), "config.kv_dtype");
  EXPECT_EQ(message([](auto& c) { c.q_dtype = DType::float8_e4m3; }), "config.q_dtype");
}

TEST(WorkspaceErrors, TheCallersMemory) {
  const Batch b(small_batch());
  const Attention attention(b.config(), b.capacity());
  const std::size_t bytes = attention.workspace_bytes();
  const auto memory = std::make_unique<std::byte[]>(bytes + 128);
  auto* aligned = reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(memory.get()) + 63) / 64 * 64);
  expect_error([&] { Workspace(attention, nullptr, bytes); },
               "invalid_argument: memory: expected a pointer to workspace_bytes() bytes, got null");
  expect_error([&] { Workspace(attention, aligned + 8, bytes); },
               "invalid_argument: memory: expected an address aligned to 64 bytes, got 8 bytes past one");
  expect_error([&] { Workspace(attention, aligned, bytes - 1); },
               "invalid_argument: bytes: expected at least " + std::to_string(bytes) + " (workspace_bytes()), got " +
                   std::to_string(bytes - 1));
}

// Large: sanitizers do not let an allocation fail.
TEST(WorkspaceErrors, LargerThanMemory) {
  const Batch b(small_batch());
  // The block tables alone take 2^50 bytes, more than a process can address.
  const Attention attention(b.config(), {.max_requests = 1 << 24, .max_query_tokens = 1, .max_table_width = 1 << 24});
  try {
    Workspace workspace(attention);
    FAIL() << "nothing was thrown";
  } catch (const std::bad_alloc& error) {
    EXPECT_EQ(error.what(), "capacity: expected a workspace that fits in memory, got one of " +
                                std::to_string(attention.workspace_bytes()) +
                                " bytes (max_requests 16777216, max_query_tokens 1, max_table_width 16777216)");
  }
}

// A planned batch that every failing call must leave intact.
class Planned : public ::testing::Test {
 protected:
  Planned() : batch(small_batch()), attention(batch.config(), batch.capacity()), workspace(attention) {
    attention.plan(batch.forest(), workspace);
    poisoned = batch.result();
  }
  ~Planned() override {
    if (expect_untouched) {
      EXPECT_EQ(batch.result(), poisoned) << "written before validation was complete";
    }
    attention.run(workspace, batch.q(), batch.kv(), batch.out(), batch.lse());
    EXPECT_TRUE(batch.matches_reference()) << "the workspace lost its last plan";
  }
  auto run(const TensorView& q, const KvView& kv, const TensorView& out, const TensorView& lse = {}) {
    return [=, this] { attention.run(workspace, q, kv, out, lse); };
  }

  Batch batch;
  Attention attention;
  Workspace workspace;
  std::vector<std::byte> poisoned;
  bool expect_untouched = true;
};

TEST_F(Planned, CapacityExceededSaysByHowMuch) {
  const auto plan = [&](std::vector<RequestSpec> requests) {
    BatchSpec spec = small_batch();
    spec.requests = std::move(requests);
    return [this, spec] { attention.plan(Batch(spec).forest(), workspace); };
  };
  expect_error(
      plan({{{{0, 1}}, 1}, {{{0, 1}}, 1}, {{{0, 1}}, 1, 0}}),
      "capacity_exceeded: forest.num_requests: expected at most 2 (capacity.max_requests), got 3 (1 too many)");
  expect_error(
      plan({{{{0, 1}}, 9, 8}}),
      "capacity_exceeded: forest.num_query_tokens: expected at most 3 (capacity.max_query_tokens), got 8 (5 too "
      "many)");
  expect_error(plan({{{{0, 9}}, 16 * 8 + 1}}),
               "capacity_exceeded: forest.table width: expected at most 4 (capacity.max_table_width), got 9 (5 too "
               "many)");
}

TEST_F(Planned, PageSizeOfTheForest) {
  BatchSpec spec = small_batch();
  spec.page_size = 32;
  spec.requests = {{{{0, 1}}, 1}};
  expect_error([&] { attention.plan(Batch(spec).forest(), workspace); },
               "invalid_argument: forest.page_size: expected 16, got 32");
}

TEST_F(Planned, AWorkspaceOfAnotherAttention) {
  Capacity larger = batch.capacity();
  larger.max_requests += 1;
  const Attention other(batch.config(), larger);
  const std::string message =
      "invalid_argument: workspace: expected one that was made for this attention, got one of another configuration, "
      "capacity, device or number of workers";
  expect_error([&] { other.plan(batch.forest(), workspace); }, message);
  expect_error([&] { other.run(workspace, batch.q(), batch.kv(), batch.out()); }, message);
}

TEST_F(Planned, RunBeforePlan) {
  Workspace fresh(attention);
  expect_error([&] { attention.run(fresh, batch.q(), batch.kv(), batch.out()); },
               "invalid_argument: workspace: expected a workspace with a plan: call plan() first, got one without");
}

TEST_F(Planned, ShapesOfQAndOut) {
  TensorView wrong = batch.q();
  wrong.shape[0] = 2;
  expect_error(run(wrong, batch.kv(), batch.out()),
               "invalid_argument: q.shape: expected [3 or more, 4, 64], got [2, 4, 64]");
  wrong = batch.out();
  wrong.shape[1] = 5;
  expect_error(run(batch.q(), batch.kv(), wrong),
               "invalid_argument: out.shape: expected [3 or more, 4, 64], got [6, 5, 64]");
  wrong = batch.out();
  wrong.rank = 2;
  expect_error(run(batch.q(), batch.kv(), wrong),
               "invalid_argument: out.shape: expected [3 or more, 4, 64], got [6, 4]");
}

TEST_F(Planned, DtypesOfQAndOut) {
  TensorView wrong = batch.q();
  wrong.dtype = DType::bfloat16;
  expect_error(run(wrong, batch.kv(), batch.out()), "invalid_argument: q.dtype: expected float32, got bfloat16");
  wrong = batch.out();
  wrong.dtype = DType::float16;
  expect_error(run(batch.q(), batch.kv(), wrong), "invalid_argument: out.dtype: expected float32, got float16");
}

TEST_F(Planned, StridesOfQAndOut) {
  TensorView wrong = batch.q();
  wrong.strides[2] = 2;
  expect_error(run(wrong, batch.kv(), batch.out()),
               "invalid_argument: q.strides[2]: expected 1 (contiguous head_dim), got 2");
  wrong = batch.q();
  wrong.strides[0] = -256;
  expect_error(run(wrong, batch.kv(), batch.out()),
               "invalid_argument: q.strides: expected strides that are not negative and stay within an address space, "
               "got -256");
  wrong = batch.q();
  wrong.strides[0] = std::numeric_limits<std::int64_t>::max() / 2;
  expect_error(run(wrong, batch.kv(), batch.out()),
               "invalid_argument: q.strides: expected strides that are not negative and stay within an address space, "
               "got 4611686018427387903");
  wrong = batch.out();
  wrong.strides[0] = 0;
  expect_error(run(batch.q(), batch.kv(), wrong),
               "invalid_argument: out.strides: expected strides that keep elements apart (at least 1), got 0");
  wrong = batch.out();
  wrong.strides[1] = 63;
  expect_error(run(batch.q(), batch.kv(), wrong),
               "invalid_argument: out.strides: expected strides that keep elements apart (at least 64), got 63");
}

TEST_F(Planned, MemoryOfQAndOut) {
  TensorView wrong = batch.q();
  wrong.data = nullptr;
  expect_error(run(wrong, batch.kv(), batch.out()),
               "invalid_argument: q.data: expected a pointer to the elements, got null");
  wrong = batch.out();
  wrong.data = nullptr;
  expect_error(run(batch.q(), batch.kv(), wrong),
               "invalid_argument: out.data: expected a pointer to the elements, got null");
  wrong = batch.out();
  wrong.data = static_cast<std::byte*>(wrong.data) + 1;
  expect_error(run(batch.q(), batch.kv(), wrong),
               "invalid_argument: out.data: expected an address aligned to float32, got 1 bytes past one");
  wrong = batch.out();
  wrong.device = {DeviceKind::cuda, 0};
  expect_error(run(batch.q(), batch.kv(), wrong), wrong_device("out", "cuda:0"));
}

TEST_F(Planned, Overlaps) {
  const std::string message = "invalid_argument: out: expected memory apart from q, got an overlap";
  expect_error(run(batch.q(), batch.kv(), batch.q()), message);
  TensorView shifted = batch.q();
  shifted.data = static_cast<float*>(shifted.data) + 3 * 256 - 1;  // one past the last row's last element, less one
  expect_error(run(batch.q(), batch.kv(), shifted), message);
  // Two slices of one packed tensor share a token stride; these two meet in their last head.
  std::vector<float> packed(3 * 1024);
  const auto slice = [&](std::int64_t from) {
    return TensorView{packed.data() + from, DType::float32, {}, 3, {3, 4, 64}, {512, 64, 1}};
  };
  expect_error(run(slice(0), batch.kv(), slice(255)), message);
  expect_error(run(slice(0), batch.kv(), slice(257)), message);
  TensorView lse = batch.lse();
  lse.data = batch.out().data;
  expect_error(run(batch.q(), batch.kv(), batch.out(), lse),
               "invalid_argument: lse: expected memory apart from out, got an overlap");
  lse.data = batch.q().data;
  expect_error(run(batch.q(), batch.kv(), batch.out(), lse),
               "invalid_argument: lse: expected memory apart from q, got an overlap");
}

TEST_F(Planned, OverlapsWithTheCache) {
  const KvView kv = batch.kv();
  const auto message = [](const char* written, const char* plane) {
    return std::string("invalid_argument: ") + written + ": expected memory apart from kv." + plane +
           ", got an overlap";
  };
  TensorView out = batch.out(), lse = batch.lse();
  const std::int64_t half = kv.k.page_stride / 2;  // K and V take turns
  out.data = static_cast<float*>(kv.k.data) + half - 1;
  expect_error(run(batch.q(), kv, out), message("out", "k"));
  out.data = static_cast<float*>(kv.v.data) + (kv.num_pages - 1) * kv.v.page_stride + half - 1;
  expect_error(run(batch.q(), kv, out), message("out", "v"));
  lse.data = kv.v.data;
  expect_error(run(batch.q(), kv, batch.out(), lse), message("lse", "v"));
}

TEST_F(Planned, BetweenPagesIsNoOverlap) {
  const TensorView out = batch.out();
  const std::int64_t page = 16 * 2 * 64, room = 3 * out.strides[0];  // elements of a page, and of all rows of out
  KvView kv = batch.kv();
  std::vector<float> memory(static_cast<std::size_t>((2 * page + room) * kv.num_pages));
  kv.k = {memory.data(), 2 * page + room, 128, 64};
  kv.v = {memory.data() + page + room, 2 * page + room, 128, 64};
  TensorView between = out;
  between.data = memory.data() + 2 * page + room + page;  // after K of page 1, right up to V
  EXPECT_NO_THROW(run(batch.q(), kv, between)());
  between.data = static_cast<float*>(between.data) + 1;
  expect_error(run(batch.q(), kv, between), "invalid_argument: out: expected memory apart from kv.v, got an overlap");
}

TEST_F(Planned, OverlapsWithTheWorkspacesMemory) {
  const std::size_t bytes = attention.workspace_bytes();
  std::vector<std::byte> memory(bytes + 64);
  void* aligned = memory.data();
  std::size_t space = memory.size();
  std::align(64, bytes, aligned, space);
  Workspace given(attention, aligned, bytes);
  attention.plan(batch.forest(), given);
  const std::vector<std::byte> before = memory;
  for (const std::size_t at : {std::size_t{0}, bytes / 8 * 4}) {
    TensorView out = batch.out(), lse = batch.lse();
    out.data = lse.data = static_cast<std::byte*>(aligned) + at;
    expect_error([&] { attention.run(given, batch.q(), batch.kv(), out); },
                 "invalid_argument: out: expected memory apart from the workspace's memory, got an overlap");
    expect_error([&] { attention.run(given, batch.q(), batch.kv(), batch.out(), lse); },
                 "invalid_argument: lse: expected memory apart from the workspace's memory, got an overlap");
  }
  EXPECT_EQ(memory, before);
}

TEST_F(Planned, SlicesOfOnePackedTensorAreNoOverlap) {
  std::vector<float> packed(3 * 512, 0.5f);
  const auto slice = [&](std::int64_t from) {
    return TensorView{packed.data() + from, DType::float32, {}, 3, {3, 4, 64}, {512, 64, 1}};
  };
  EXPECT_NO_THROW(run(slice(0), batch.kv(), slice(256))());
  EXPECT_NO_THROW(run(slice(256), batch.kv(), slice(0))());
}

TEST_F(Planned, Lse) {
  TensorView wrong = batch.lse();
  wrong.dtype = DType::float16;
  expect_error(run(batch.q(), batch.kv(), batch.out(), wrong),
               "invalid_argument: lse.dtype: expected float32, got float16");
  wrong = batch.lse();
  wrong.shape[1] = 3;
  expect_error(run(batch.q(), batch.kv(), batch.out(), wrong),
               "invalid_argument: lse.shape: expected [3 or more, 4], got [6, 3]");
  wrong = batch.lse();
  wrong.strides = {1, 1};
  expect_error(run(batch.q(), batch.kv(), batch.out(), wrong),
               "invalid_argument: lse.strides: expected strides that keep elements apart (at least 3), got 1");
}

TEST_F(Planned, Kv) {
  const auto with = [&](auto change) {
    KvView kv = batch.kv();
    change(kv);
    return run(batch.q(), kv, batch.out());
  };
  expect_error(with([](KvView& kv) { kv.dtype = DType::bfloat16; }),
               "invalid_argument: kv.dtype: expected float32, got bfloat16");
  expect_error(with([](KvView& kv) { kv.page_size = 8; }), "invalid_argument: kv.page_size: expected 16, got 8");
  expect_error(with([](KvView& kv) { kv.num_kv_heads = 1; }), "invalid_argument: kv.num_kv_heads: expected 2, got 1");
  expect_error(with([](KvView& kv) { kv.head_dim = 32; }), "invalid_argument: kv.head_dim: expected 64, got 32");
  expect_error(with([](KvView& kv) { kv.k.data = nullptr; }),
               "invalid_argument: kv.k: expected a pointer to K, got null");
  expect_error(with([](KvView& kv) { kv.v.data = static_cast<std::byte*>(kv.v.data) + 2; }),
               "invalid_argument: kv.v: expected an address aligned to float32, got 2 bytes past one");
  expect_error(with([](KvView& kv) { kv.device = {DeviceKind::cuda, 2}; }), wrong_device("kv", "cuda:2"));
}

TEST_F(Planned, PagesBeyondTheCache) {
  std::int32_t largest = 0;
  for (const int request : {0, 1}) {
    for (const std::int32_t page : batch.pages(request)) largest = std::max(largest, page);
  }
  KvView kv = batch.kv();
  kv.num_pages = largest;
  expect_error(run(batch.q(), kv, batch.out()), "invalid_argument: kv.num_pages: expected more than page " +
                                                    std::to_string(largest) + " of the planned block tables, got " +
                                                    std::to_string(largest));
  kv.num_pages = largest + 1;
  EXPECT_NO_THROW(run(batch.q(), kv, batch.out())());
  expect_untouched = false;
}

TEST_F(Planned, LengthsBeyondThePlannedOnes) {
  const auto with = [&](std::vector<std::int32_t> lengths) {
    return [this, lengths] { attention.run(workspace, batch.q(), batch.kv(), batch.out(), {}, {}, lengths.data()); };
  };
  expect_error(with({50, 61}), "invalid_argument: seq_lens[1]: expected 0 to 60, the planned length, got 61");
  expect_error(with({-1, 60}), "invalid_argument: seq_lens[0]: expected 0 to 50, the planned length, got -1");
}

}  // namespace
}  // namespace trunkline::test
