// Measures a CUDA device by running the backend itself on synthetic batches: what comes out is what the planner can
// count on, launch and tables included. Fixed costs and rates come apart by timing two sizes.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "exec/cuda/backend.hpp"
#include "exec/cuda/runtime.hpp"
#include "trunkline/attention.hpp"

namespace trunkline::exec::cuda {
namespace {

constexpr int head_dim = 128, page_size = 16, num_kv_heads = 8;
constexpr std::int64_t token_bytes = 2 * num_kv_heads * head_dim * 2;  // bf16
constexpr std::int64_t cache_tokens = 1 << 18;                         // 1 GiB, many times any L2

class Stopwatch {
 public:
  Stopwatch() {
    check(cudaEventCreate(&begin_), "cudaEventCreate");
    check(cudaEventCreate(&end_), "cudaEventCreate");
  }
  ~Stopwatch() {
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  template <class Work>
  double seconds(const Work& work) {
    check(cudaEventRecord(begin_, nullptr), "cudaEventRecord");
    work();
    check(cudaEventRecord(end_, nullptr), "cudaEventRecord");
    check(cudaEventSynchronize(end_), "cudaEventSynchronize");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
    return milliseconds * 1e-3;
  }

 private:
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

/// `num_requests` requests that share `shared` tokens and have `own` tokens each.
struct Shape {
  int num_requests, shared, own, group_size;
};

class Rig {
 public:
  explicit Rig(const Device& device) : device_(device), kv_(allocate_device(cache_tokens * token_bytes)) {
    // Random values: constant ones draw less power, and matrix products of them run faster than any real ones.
    std::mt19937 random(1);
    std::vector<std::uint16_t> values(std::size_t{1} << 22);
    for (std::uint16_t& value : values) {  // bf16, magnitude 1/4 to 2
      value = static_cast<std::uint16_t>((random() & 0x807fu) | (0x3e80u + ((random() % 4) << 7)));
    }
    const std::size_t bytes = values.size() * sizeof(values[0]);
    for (std::int64_t at = 0; at < cache_tokens * token_bytes; at += static_cast<std::int64_t>(bytes)) {
      check(cudaMemcpy(kv_.get() + at, values.data(), bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
    }
  }

  /// Of one run among runs back to back, the least of a few attempts.
  double seconds(const Shape& shape, const ExecutionOptions& options) {
    AttentionConfig config;
    config.num_qo_heads = num_kv_heads * shape.group_size;
    config.num_kv_heads = num_kv_heads;
    config.head_dim = head_dim;
    config.page_size = page_size;
    const int length = shape.shared + shape.own;
    const Attention attention(config, {shape.num_requests, shape.num_requests, length / page_size}, device_, options);
    Workspace workspace(attention);
    attention.plan(forest(shape), workspace);
    const std::array<std::int64_t, 4> rows{shape.num_requests, config.num_qo_heads, head_dim};
    const auto row_bytes = static_cast<std::size_t>(rows[0] * rows[1] * rows[2] * 2);
    const DeviceMemory out = allocate_device(row_bytes);
    const TensorView q_view = contiguous(kv_.get(), DType::bfloat16, rows, 3, device_);  // random values too
    const TensorView out_view = contiguous(out.get(), DType::bfloat16, rows, 3, device_);
    const KvView kv = KvView::interleaved(kv_.get(), DType::bfloat16, KvLayout::nhd, cache_tokens / page_size,
                                          page_size, num_kv_heads, head_dim, device_);
    const auto runs = [&](int count) {
      return stopwatch_.seconds([&] {
        for (int run = 0; run < count; ++run) attention.run(workspace, q_view, kv, out_view);
      });
    };
    runs(2);
    const int count = std::clamp(static_cast<int>(3e-3 / runs(1)), 2, 200);
    double least = INFINITY;
    for (int attempt = 0; attempt < 5; ++attempt) least = std::min(least, runs(count) / count);
    return least;
  }

 private:
  static Forest forest(const Shape& shape) {
    const int shared_pages = shape.shared / page_size, own_pages = shape.own / page_size;
    std::vector<std::int32_t> table;
    std::int32_t next = shared_pages;
    for (int request = 0; request < shape.num_requests; ++request) {
      for (int page = 0; page < shared_pages; ++page) table.push_back(page);
      for (int page = 0; page < own_pages; ++page) table.push_back(next++);
    }
    const std::vector<std::int32_t> lengths(static_cast<std::size_t>(shape.num_requests), shape.shared + shape.own);
    return Forest::from_block_tables(BlockTables::dense(table, shape.num_requests, shared_pages + own_pages), lengths,
                                     page_size);
  }

  Device device_;
  DeviceMemory kv_;
  Stopwatch stopwatch_;
};

}  // namespace

DeviceSpec calibrate(const Device& device) {
  AttentionConfig config;
  config.num_qo_heads = config.num_kv_heads = num_kv_heads;
  config.head_dim = head_dim;
  config.page_size = page_size;
  const Attention shipped(config, {1, 1, 1}, device);
  DeviceSpec spec = shipped.device_spec();
  const DeviceGuard guard(device.index);
  Rig rig(device);
  const auto rate = [&](const Shape& small, const Shape& large, double work, const ExecutionOptions& options = {}) {
    return work / std::max(rig.seconds(large, options) - rig.seconds(small, options), 1e-9);
  };

  // Reads: requests that share nothing, 512 MiB and 1 GiB.
  constexpr int readers = 64, long_read = cache_tokens / readers;
  spec.read_bandwidth =
      rate({readers, 0, long_read / 2, 1}, {readers, 0, long_read, 1}, 0.5 * cache_tokens * token_bytes);
  // One worker alone: 16 and 32 MiB.
  ExecutionOptions one;
  one.num_ctas = 1;
  spec.worker_bandwidth =
      std::min(rate({1, 0, 4096, 1}, {1, 0, 8192, 1}, 4096.0 * token_bytes, one), spec.read_bandwidth);
  // Matrix rate: 512 rows per KV head over a prefix that all share.
  constexpr int many = 64, group = 8, tokens = 8192;
  spec.wide.flops = rate({many, tokens, 0, group}, {many, 2 * tokens, 0, group},
                         4.0 * many * group * num_kv_heads * tokens * head_dim);
  // Fixed costs: one page alone, then so many of them that every worker has some in a row.
  const double launch = rig.seconds({1, 0, page_size, 1}, {});
  constexpr int items = 2048;
  const double all = rig.seconds({items, 0, page_size, 1}, {});
  const double reads = items * static_cast<double>(page_size) * token_bytes / spec.read_bandwidth;
  const double units_per_worker = static_cast<double>(items) * num_kv_heads / spec.num_workers;
  spec.narrow.item_seconds = std::max(all - launch - reads, 0.0) / units_per_worker;
  spec.launch_seconds = std::max(launch - spec.narrow.item_seconds, 0.0);

  int l2_bytes = 0;
  check(cudaDeviceGetAttribute(&l2_bytes, cudaDevAttrL2CacheSize, device.index), "cudaDeviceGetAttribute");
  spec.cache_bytes = l2_bytes;
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device.index), "cudaGetDeviceProperties");
  spec.name = std::string(properties.name) + ", " + shipped.kernel() + ", calibrated";
  spec.validate();
  return spec;
}

}  // namespace trunkline::exec::cuda
