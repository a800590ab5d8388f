// The CPU kernels by themselves, per SIMD target: no planner and no thread pool, only items taken in turn by the
// threads that Google Benchmark runs. Counters: `bytes` of K and V per second and `flops` (4 * rows * tokens *
// head_dim).
//
//   cpu_kernels_bench --benchmark_filter='/avx3/' --benchmark_repetitions=9 --benchmark_report_aggregates_only
//
// `read` is the bytes' floor: the same K and V added up, two threads, nothing else. The arithmetic's floor is a large
// f32 matrix product of the machine's best BLAS, which `trunkline bench` measures.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/kernels.hpp"

namespace trunkline {
namespace {

using kernels::AttentionParams;
using kernels::Element;

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<void, Free>;

Memory allocate(std::size_t bytes) { return Memory(std::aligned_alloc(64, (bytes + 63) / 64 * 64)); }

struct Shape {
  int num_items, rows, tokens, num_kv_heads, head_dim, page_size;
  Element element;  // of q and of K and V

  std::size_t element_bytes() const { return element == Element::f32 ? 4 : 2; }
  std::int64_t kv_bytes() const {
    return 2ll * num_items * tokens * num_kv_heads * head_dim * static_cast<std::int64_t>(element_bytes());
  }
  double flops() const { return 4.0 * num_items * rows * tokens * num_kv_heads * head_dim; }
  std::string name() const {
    const char* const type = element == Element::f32 ? "f32" : element == Element::f16 ? "f16" : "bf16";
    return std::string(type) + "/items:" + std::to_string(num_items) + "/rows:" + std::to_string(rows) +
           "/tokens:" + std::to_string(tokens);
  }
};

/// Items of `rows` rows and one segment of `tokens` tokens each, NHD pages in random order, as one query token per item
/// with `rows` query heads per KV head.
class Batch {
 public:
  explicit Batch(const Shape& shape) : shape_(shape) {
    const int pages_per_item = (shape.tokens + shape.page_size - 1) / shape.page_size;
    const std::int64_t token = static_cast<std::int64_t>(shape.num_kv_heads) * shape.head_dim;
    const std::int64_t num_pages = static_cast<std::int64_t>(shape.num_items) * pages_per_item;
    const auto kv_bytes = static_cast<std::size_t>(num_pages * shape.page_size * token) * shape.element_bytes();
    k_ = allocate(kv_bytes);
    v_ = allocate(kv_bytes);
    fill(k_.get(), kv_bytes);
    fill(v_.get(), kv_bytes);
    const std::int64_t q_heads = static_cast<std::int64_t>(shape.num_kv_heads) * shape.rows;
    const auto q_bytes = static_cast<std::size_t>(shape.num_items * q_heads * shape.head_dim) * shape.element_bytes();
    q_ = allocate(q_bytes);
    out_ = allocate(q_bytes);
    fill(q_.get(), q_bytes);

    table_.resize(static_cast<std::size_t>(num_pages));
    std::iota(table_.begin(), table_.end(), 0);
    std::shuffle(table_.begin(), table_.end(), std::mt19937(1));
    for (int i = 0; i < shape.num_items; ++i) {
      query_tokens_.push_back({i, i, 0, shape.tokens});
      segments_.push_back({i, 0, shape.tokens});
      items_.push_back({i * shape.rows, shape.rows, i, 1, -1, 0});
    }
    params_.num_kv_heads = shape.num_kv_heads;
    params_.group_size = shape.rows;
    params_.head_dim = shape.head_dim;
    params_.page_size = shape.page_size;
    params_.q_element = params_.kv_element = shape.element;
    params_.scale = 0.1f;
    params_.q = {q_.get(), q_heads * shape.head_dim, shape.head_dim};
    params_.out = {out_.get(), q_heads * shape.head_dim, shape.head_dim};
    params_.k = {k_.get(), shape.page_size * token, token, shape.head_dim};
    params_.v = {v_.get(), shape.page_size * token, token, shape.head_dim};
    params_.table = table_.data();
    params_.table_stride = pages_per_item;
    params_.query_tokens = query_tokens_.data();
    params_.items = items_.data();
    params_.segments = segments_.data();
  }

  const AttentionParams& params() const { return params_; }
  const void* k() const { return k_.get(); }
  const void* v() const { return v_.get(); }

 private:
  /// Small positive numbers of any element type: what they are does not matter for time, that no two lines alias does.
  void fill(void* memory, std::size_t bytes) const {
    if (shape_.element == Element::f32) {
      for (std::size_t i = 0; i < bytes / 4; ++i) static_cast<float*>(memory)[i] = 0.01f * static_cast<float>(i % 97);
    } else {
      for (std::size_t i = 0; i < bytes / 2; ++i) {
        static_cast<std::uint16_t*>(memory)[i] = static_cast<std::uint16_t>(0x3000 + i % 97);
      }
    }
  }

  Shape shape_;
  Memory k_, v_, q_, out_;
  std::vector<std::int32_t> table_;
  std::vector<QueryToken> query_tokens_;
  std::vector<Segment> segments_;
  std::vector<WorkItem> items_;
  AttentionParams params_{};
};

/// The batch of one shape at a time: benchmarks of a shape run one after the other.
const Batch& batch_of(const Shape& shape) {
  static std::string name;
  static std::unique_ptr<Batch> batch;
  if (batch == nullptr || name != shape.name()) {
    batch.reset();
    batch = std::make_unique<Batch>(shape);
    name = shape.name();
  }
  return *batch;
}

void count(benchmark::State& state, const Shape& shape) {
  const auto iterations = static_cast<double>(state.iterations());  // the same for every thread, each does its share
  state.counters["bytes"] = benchmark::Counter(static_cast<double>(shape.kv_bytes()) * iterations,
                                               benchmark::Counter::kIsRate, benchmark::Counter::kIs1000);
  state.counters["flops"] =
      benchmark::Counter(shape.flops() * iterations, benchmark::Counter::kIsRate, benchmark::Counter::kIs1000);
}

/// Item i, all heads, goes to thread i % threads.
void attend(benchmark::State& state, const Shape& shape, const kernels::cpu::Target& target, const Batch*& batch) {
  if (state.thread_index() == 0) batch = &batch_of(shape);
  const std::size_t bytes = kernels::cpu::scratch_bytes(shape.head_dim);
  const Memory scratch = allocate(bytes);
  for ([[maybe_unused]] auto _ : state) {
    for (int item = state.thread_index(); item < shape.num_items; item += state.threads()) {
      target.attend(batch->params(), item, 0, shape.num_kv_heads, {scratch.get(), bytes});
    }
    benchmark::ClobberMemory();
  }
  count(state, shape);
}

/// Eight independent sums, which compilers turn into vectors of any target.
std::uint64_t add_up(const void* memory, std::size_t bytes) {
  const auto* words = static_cast<const std::uint64_t*>(memory);
  std::uint64_t sums[8] = {};
  for (std::size_t i = 0; i + 8 <= bytes / 8; i += 8) {
    for (int j = 0; j < 8; ++j) sums[j] += words[i + j];
  }
  return std::accumulate(sums, sums + 8, std::uint64_t{0});
}

void read(benchmark::State& state, const Shape& shape, const Batch*& batch) {
  if (state.thread_index() == 0) batch = &batch_of(shape);
  const std::size_t part = static_cast<std::size_t>(shape.kv_bytes()) / 2 / state.threads() / 64 * 64;
  for ([[maybe_unused]] auto _ : state) {
    for (const void* plane : {batch->k(), batch->v()}) {
      benchmark::DoNotOptimize(add_up(static_cast<const char*>(plane) + part * state.thread_index(), part));
    }
  }
  count(state, shape);
}

void add_benchmarks() {
  const Shape shapes[] = {
      {32, 4, 2048, 8, 128, 16, Element::bf16},   // unshared decode, 32/8 heads
      {32, 4, 2048, 8, 128, 16, Element::f16},    //
      {16, 4, 2048, 8, 128, 16, Element::f32},    //
      {32, 8, 2048, 8, 128, 16, Element::bf16},   // group of 8
      {8, 1, 2048, 32, 128, 64, Element::f32},    // unshared, no groups
      {32, 1, 64, 32, 128, 64, Element::f32},     // own tokens of 32 requests
      {1, 32, 4096, 32, 128, 64, Element::f32},   // shared by 32 requests, 32/32 heads
      {1, 32, 4096, 32, 128, 64, Element::bf16},  //
      {1, 32, 512, 32, 128, 64, Element::f32},    //
      {1, 16, 2048, 32, 128, 64, Element::f32},   //
      {1, 48, 2048, 32, 128, 64, Element::f32},   //
      {1, 128, 2048, 32, 128, 64, Element::f32},  //
      {4, 256, 2048, 8, 128, 16, Element::bf16},  //
  };
  static const Batch* batch;  // set by thread 0 before the first iteration, which all threads start together
  for (const Shape& shape : shapes) {
    benchmark::RegisterBenchmark(("read/" + shape.name()).c_str(),
                                 [shape](benchmark::State& state) { read(state, shape, batch); })
        ->Threads(2)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
    for (const kernels::cpu::Target& target : kernels::cpu::targets()) {
      benchmark::RegisterBenchmark(("attend/" + std::string(target.name) + "/" + shape.name()).c_str(),
                                   [shape, target](benchmark::State& state) { attend(state, shape, target, batch); })
          ->Threads(2)
          ->UseRealTime()
          ->Unit(benchmark::kMillisecond);
    }
  }
}

}  // namespace
}  // namespace trunkline

int main(int argc, char** argv) {
  trunkline::add_benchmarks();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
