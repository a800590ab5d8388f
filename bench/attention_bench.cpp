// plan and run end to end on the CPU, for the shapes whose speed the project states. Each iteration of a run is
// preceded by a read of the batch's distinct KV bytes with as many threads: the floor when bytes bound, measured in the
// same minute on the same memory. Results are checked against the reference on some rows before anything is timed.
//   attention_bench --benchmark_filter=run/unshared --benchmark_repetitions=9
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "trunkline/trunkline.hpp"

namespace {

using namespace trunkline;
using Clock = std::chrono::steady_clock;

struct Shape {
  const char* name;
  int requests, shared, own;  // tokens
  int num_qo_heads, num_kv_heads, head_dim;
  DType dtype;
  int page_size;
};

constexpr Shape shapes[] = {
    {"unshared_32x2048", 32, 0, 2048, 32, 8, 128, DType::bfloat16, 16},
    {"shared_32x4096+64", 32, 4096, 64, 32, 32, 128, DType::float32, 16},
};

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// The shape with random KV and queries.
class Problem {
 public:
  explicit Problem(const Shape& shape) : shape_(shape) {
    config.num_qo_heads = shape.num_qo_heads;
    config.num_kv_heads = shape.num_kv_heads;
    config.head_dim = shape.head_dim;
    config.page_size = shape.page_size;
    config.q_dtype = config.kv_dtype = shape.dtype;
    const int shared_pages = shape.shared / shape.page_size, own_pages = shape.own / shape.page_size;
    width_ = shared_pages + own_pages;
    num_pages_ = shared_pages + shape.requests * own_pages;
    std::vector<std::int32_t> shuffled(static_cast<std::size_t>(num_pages_));
    std::iota(shuffled.begin(), shuffled.end(), 0);
    std::shuffle(shuffled.begin(), shuffled.end(), std::mt19937(1));
    for (int r = 0; r < shape.requests; ++r) {
      for (int page = 0; page < width_; ++page) {
        tables_.push_back(shuffled[page < shared_pages ? page : page + r * own_pages]);
      }
    }
    seq_lens_.assign(static_cast<std::size_t>(shape.requests), shape.shared + shape.own);
    qo_lens_.assign(static_cast<std::size_t>(shape.requests), 1);
    kv_ = random(std::int64_t{2} * num_pages_ * shape.page_size * shape.num_kv_heads * shape.head_dim);
    q_ = random(std::int64_t{shape.requests} * shape.num_qo_heads * shape.head_dim);
    out_.resize(q_.size());
  }

  Capacity capacity() const { return {shape_.requests, shape_.requests, width_ + 1}; }
  BlockTables tables() const { return BlockTables::dense(tables_, shape_.requests, width_); }
  Forest forest() const { return Forest::from_block_tables(tables(), seq_lens_, shape_.page_size); }
  TensorView q() { return rows(q_); }
  TensorView out() { return rows(out_); }
  KvView kv() {
    return KvView::interleaved(kv_.data(), shape_.dtype, KvLayout::nhd, num_pages_, shape_.page_size,
                               shape_.num_kv_heads, shape_.head_dim);
  }
  double distinct_bytes() const { return static_cast<double>(kv_.size()); }
  double operations() const {
    return 4.0 * shape_.requests * (shape_.shared + shape_.own) * shape_.num_qo_heads * shape_.head_dim;
  }

  /// The worst error of some rows over its bound: at most 1 when the result is right.
  double error_over_bound() {
    std::vector<ReferenceRow> sample;
    for (int i = 0; i < 8; ++i) sample.push_back({i * 5 % shape_.requests, i * 7 % shape_.num_qo_heads});
    const ReferenceResult expected =
        reference_attention(q(), kv(), tables(), seq_lens_, qo_lens_, config.scale(), sample);
    double worst = 0;
    for (std::size_t i = 0; i < expected.out.size(); ++i) {
      const ReferenceRow& row = sample[i / shape_.head_dim];
      const std::int64_t at = (std::int64_t{row.token} * shape_.num_qo_heads + row.head) * shape_.head_dim +
                              static_cast<std::int64_t>(i) % shape_.head_dim;
      const double error = std::fabs(value(out_, at) - expected.out[i]) / expected.bound[i];
      worst = error <= worst ? worst : error;  // keeps a NaN
    }
    return worst;
  }

  /// Seconds to read all KV once with `threads` threads.
  double floor_seconds(int threads) {
    const auto* words = reinterpret_cast<const std::uint64_t*>(kv_.data());
    const std::size_t count = kv_.size() / sizeof(std::uint64_t), part = count / threads;
    std::vector<std::uint64_t> sums(threads);
    const auto read = [&](int t) {
      sums[t] = std::accumulate(words + t * part, words + (t + 1) * part, std::uint64_t{0});
    };
    const Clock::time_point begin = Clock::now();
    std::vector<std::thread> team;
    for (int t = 1; t < threads; ++t) team.emplace_back(read, t);
    read(0);
    for (std::thread& thread : team) thread.join();
    const double seconds = seconds_since(begin);
    benchmark::DoNotOptimize(sums.data());
    return seconds;
  }

  AttentionConfig config;

 private:
  TensorView rows(std::vector<std::byte>& memory) {
    return contiguous(memory.data(), shape_.dtype, {shape_.requests, shape_.num_qo_heads, shape_.head_dim}, 3);
  }

  // Uniform in [-2, 2): 16 bits of a counter's hash, cut to the dtype.
  std::vector<std::byte> random(std::int64_t count) const {
    const std::size_t size = size_of(shape_.dtype);
    std::vector<std::byte> memory(static_cast<std::size_t>(count) * size);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::uint64_t hash = static_cast<std::uint64_t>(i) * 0x9e3779b97f4a7c15u;
      const float x = static_cast<float>(static_cast<std::int16_t>(hash >> 48)) * 0x1p-14f;
      std::uint32_t bits;
      std::memcpy(&bits, &x, sizeof bits);
      if (size == 2) bits >>= 16;  // bfloat16
      std::memcpy(memory.data() + i * static_cast<std::int64_t>(size), &bits, size);
    }
    return memory;
  }

  double value(const std::vector<std::byte>& memory, std::int64_t i) const {
    const std::size_t size = size_of(shape_.dtype);
    std::uint32_t bits = 0;
    std::memcpy(&bits, memory.data() + i * static_cast<std::int64_t>(size), size);
    if (size == 2) bits <<= 16;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  }

  Shape shape_;
  int width_ = 0, num_pages_ = 0;
  std::vector<std::int32_t> tables_, seq_lens_, qo_lens_;
  std::vector<std::byte> kv_, q_, out_;
};

double median(std::vector<double> values) {
  std::ranges::nth_element(values, values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2));
  return values[values.size() / 2];
}

void run(benchmark::State& state, const Shape& shape, Strategy strategy, int threads) {
  Problem problem(shape);
  problem.config.strategy = strategy;
  const Attention attention(problem.config, problem.capacity(), {},
                            {.num_threads = threads, .simd_target = {}, .device = {}});
  Workspace workspace(attention);
  attention.plan(problem.forest(), workspace);
  attention.run(workspace, problem.q(), problem.kv(), problem.out());
  if (const double error = problem.error_over_bound(); !(error <= 1)) {
    state.SkipWithError(("wrong result: error over bound " + std::to_string(error)).c_str());
    return;
  }
  std::vector<double> floors, runs;
  for (auto _ : state) {
    floors.push_back(problem.floor_seconds(threads));
    const Clock::time_point begin = Clock::now();
    attention.run(workspace, problem.q(), problem.kv(), problem.out());
    runs.push_back(seconds_since(begin));
    state.SetIterationTime(runs.back());
  }
  const double seconds = median(runs), floor = median(floors);
  state.SetLabel(attention.kernel());
  state.counters["median_ms"] = seconds * 1e3;
  state.counters["read_ms"] = floor * 1e3;
  state.counters["over_read"] = seconds / floor;
  state.counters["GB/s"] = problem.distinct_bytes() / seconds * 1e-9;
  state.counters["GFLOP/s"] = problem.operations() / seconds * 1e-9;
}

// Block tables to a plan in the workspace: a new batch.
void plan(benchmark::State& state, const Shape& shape) {
  const Problem problem(shape);
  const Attention attention(problem.config, problem.capacity());
  Workspace workspace(attention);
  for (auto _ : state) attention.plan(problem.forest(), workspace);
}

// Every request grows by a token, then the plan is made anew: a decode step.
void step(benchmark::State& state, const Shape& shape) {
  const Problem problem(shape);
  Capacity capacity = problem.capacity();
  capacity.max_table_width += 100000;  // a page more every page_size steps
  const Attention attention(problem.config, capacity);
  Workspace workspace(attention);
  Forest forest = problem.forest();
  attention.plan(forest, workspace);
  Deltas deltas;
  std::int32_t length = shape.shared + shape.own;
  for (auto _ : state) {
    deltas.clear();
    for (RequestId r = 0; r < shape.requests; ++r) {
      Deltas::Growth growth{r, 1, {}};
      if (length % shape.page_size == 0)
        growth.pages.push_back(1000000 + length * shape.requests + static_cast<int>(r));
      deltas.grow.push_back(std::move(growth));
    }
    ++length;
    forest.advance(deltas);
    attention.plan(forest, workspace);
  }
}

void register_all() {
  const int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  for (const Shape& shape : shapes) {
    const std::string name = shape.name;
    for (const Strategy strategy : {Strategy::automatic, Strategy::unshared}) {
      benchmark::RegisterBenchmark(("run/" + name + "/" + to_string(strategy)).c_str(), run, shape, strategy, threads)
          ->UseManualTime()
          ->Unit(benchmark::kMillisecond)
          ->MinTime(1.0);
    }
    benchmark::RegisterBenchmark(("plan/" + name).c_str(), plan, shape)->Unit(benchmark::kMicrosecond);
    benchmark::RegisterBenchmark(("step/" + name).c_str(), step, shape)->Unit(benchmark::kMicrosecond);
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  register_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
