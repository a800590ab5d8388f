// Measures what the planner's cost model needs to know of this machine. Every number is the least of several timed
// runs: what else the machine does only adds to a run. Fixed costs and rates come apart by timing two sizes.
#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/check.hpp"
#include "exec/arguments.hpp"
#include "exec/cuda/backend.hpp"
#include "exec/thread_pool.hpp"
#include "kernels/cpu/kernels.hpp"
#include "trunkline/system.hpp"

namespace trunkline {
namespace {

using Clock = std::chrono::steady_clock;

template <class Function>
double least_seconds(int runs, Function&& function) {
  double least = INFINITY;
  for (int run = 0; run < runs; ++run) {
    const Clock::time_point begin = Clock::now();
    function();
    least = std::min(least, std::chrono::duration<double>(Clock::now() - begin).count());
  }
  return least;
}

// `units` calls of body(unit, thread) in each of `phases`.
template <class Body>
class Loop final : public exec::Job {
 public:
  Loop(int phases, std::int64_t units, Body body) : phases_(phases), units_(units), body_(std::move(body)) {}
  int num_phases() const noexcept override { return phases_; }
  std::int64_t num_units(int) const noexcept override { return units_; }
  std::int64_t grain(int) const noexcept override { return 1; }
  void work(int, std::int64_t unit, int thread) const noexcept override { body_(unit, thread); }

 private:
  int phases_;
  std::int64_t units_;
  Body body_;
};

double cache_bytes(double fallback) {
#if defined(_SC_LEVEL3_CACHE_SIZE)
  for (const int level : {_SC_LEVEL3_CACHE_SIZE, _SC_LEVEL2_CACHE_SIZE}) {
    if (const long bytes = sysconf(level); bytes > 0) return static_cast<double>(bytes);
  }
#endif
  return fallback;
}

double memory_bytes(double fallback) {
#if defined(_SC_PHYS_PAGES)
  const double bytes = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
  if (bytes > 0) return bytes;
#endif
  return fallback;
}

// Twice the last cache, so that at least half of a pass comes from memory whatever the cache keeps; at most 1 GiB and a
// quarter of the machine's memory.
std::int64_t read_buffer_bytes(double cache) {
  constexpr double mebibyte = 1 << 20;
  const double bytes = std::clamp(2 * cache, 256 * mebibyte, 1024 * mebibyte);
  return static_cast<std::int64_t>(std::min(bytes, memory_bytes(1024 * mebibyte) / 4));
}

void measure_reads(exec::ThreadPool& pool, DeviceSpec& spec) {
  constexpr std::int64_t slice = (1 << 20) / sizeof(std::uint64_t);  // 1 MiB at a time
  const std::int64_t slices =
      read_buffer_bytes(spec.cache_bytes) / static_cast<std::int64_t>(slice * sizeof(std::uint64_t));
  const auto buffer = std::make_unique_for_overwrite<std::uint64_t[]>(static_cast<std::size_t>(slices * slice));
  std::vector<std::uint64_t> sums(static_cast<std::size_t>(slices));  // keeps the reads from being optimised away
  pool.run(Loop(1, slices, [&](std::int64_t s, int) { std::fill_n(buffer.get() + s * slice, slice, s); }));

  const auto read_slice = [&](std::int64_t s) {
    const std::uint64_t* begin = buffer.get() + s * slice;
    sums[s] = std::accumulate(begin, begin + slice, std::uint64_t{0});
  };
  const double bytes = static_cast<double>(slices * slice) * sizeof(std::uint64_t);
  const double all = least_seconds(4, [&] { pool.run(Loop(1, slices, [&](std::int64_t s, int) { read_slice(s); })); });
  const double one = least_seconds(2, [&] {
    for (std::int64_t s = 0; s < slices; ++s) read_slice(s);
  });
  spec.read_bandwidth = bytes / all;
  spec.worker_bandwidth = std::min(bytes / one, spec.read_bandwidth);
}

// One item and one merge of the real kernels on arrays that stay in a core's cache: bf16, head_dim 128, page 16, one KV
// head, one query head.
class KernelRig {
 public:
  static constexpr int head_dim = 128, page_size = 16;
  static constexpr int max_tokens = 1024;  // 512 KiB of KV
  static constexpr int merge_rows = 16, merge_sources = 32;

  explicit KernelRig(int max_rows)
      : q_(static_cast<std::size_t>(max_rows) * head_dim, one),
        kv_(2 * max_tokens * head_dim, one),
        out_(q_.size()),
        table_(max_tokens / page_size),
        tokens_(static_cast<std::size_t>(max_rows)),
        sources_(merge_sources) {
    const int partial_rows = std::max(max_rows, merge_rows * merge_sources);
    partial_out_.resize(static_cast<std::size_t>(partial_rows) * head_dim);
    partial_lse_.resize(static_cast<std::size_t>(partial_rows));
    std::iota(table_.begin(), table_.end(), 0);
    for (int row = 0; row < max_rows; ++row) tokens_[row] = {row, 0, 0, max_tokens};
    for (int source = 0; source < merge_sources; ++source) sources_[source] = source * merge_rows;
  }

  /// Pointers into this, which must stay where it is.
  kernels::AttentionParams params() {
    kernels::AttentionParams p{};
    p.num_kv_heads = p.group_size = 1;
    p.head_dim = head_dim;
    p.page_size = page_size;
    p.q_element = p.kv_element = kernels::Element::bf16;
    p.scale = 0.1f;
    p.q = {q_.data(), head_dim, head_dim};
    p.out = {out_.data(), head_dim, head_dim};
    p.k = {kv_.data(), page_size * head_dim, head_dim, head_dim};
    p.v = {kv_.data() + max_tokens * head_dim, page_size * head_dim, head_dim, head_dim};
    p.table = table_.data();
    p.table_stride = static_cast<std::int64_t>(table_.size());
    p.query_tokens = tokens_.data();
    p.items = &item_;
    p.segments = &segment_;
    p.merges = &merge_;
    p.merge_sources = sources_.data();
    p.partial_out = partial_out_.data();
    p.partial_lse = partial_lse_.data();
    return p;
  }

  void set_item(int rows, int tokens) {
    item_ = {0, rows, 0, 1, 0, 0};
    segment_ = {0, 0, tokens};
  }
  void set_merge(int rows, int sources) { merge_ = {0, rows, 0, sources}; }

 private:
  static constexpr std::uint16_t one = 0x3f80;  // bf16 1.0
  std::vector<std::uint16_t> q_, kv_, out_;
  std::vector<std::int32_t> table_;
  std::vector<QueryToken> tokens_;
  std::vector<std::int32_t> sources_;
  std::vector<float> partial_out_, partial_lse_;
  WorkItem item_{};
  Segment segment_{};
  Merge merge_{};
};

// time(size) = fixed + size * each
struct Line {
  double fixed, each;
};
Line through(double size_a, double time_a, double size_b, double time_b) {
  const double each = std::max((time_b - time_a) / (size_b - size_a), 1e-15);  // noise must not make it 0 or less
  return {std::max(0.0, time_a - size_a * each), each};
}

// Every thread runs the same entry on a rig of its own.
class KernelTimer {
 public:
  KernelTimer(exec::ThreadPool& pool, const kernels::cpu::Target& target, int max_rows)
      : pool_(pool),
        target_(target),
        scratch_stride_(round_up<std::size_t>(kernels::cpu::scratch_bytes(KernelRig::head_dim), 128)),
        scratch_(static_cast<std::byte*>(
            ::operator new(scratch_stride_* static_cast<std::size_t>(pool.size()), alignment))) {
    for (int thread = 0; thread < pool.size(); ++thread) rigs_.push_back(std::make_unique<KernelRig>(max_rows));
  }

  /// Seconds of an item against its tokens.
  Line item(int rows) {
    const auto time = [&](int tokens) {
      for (auto& rig : rigs_) rig->set_item(rows, tokens);
      return entry_seconds([this](const kernels::AttentionParams& params, kernels::cpu::Scratch scratch) {
        target_.attend(params, 0, 0, 1, scratch);
      });
    };
    constexpr int few = KernelRig::max_tokens / 8, many = KernelRig::max_tokens;
    return through(few, time(few), many, time(many));
  }

  double merge(int rows, int sources) {
    for (auto& rig : rigs_) rig->set_merge(rows, sources);
    return entry_seconds([this](const kernels::AttentionParams& params, kernels::cpu::Scratch scratch) {
      target_.merge(params, 0, 0, scratch);
    });
  }

 private:
  static constexpr std::align_val_t alignment{64};
  struct Free {
    void operator()(std::byte* memory) const { ::operator delete(memory, alignment); }
  };

  // Of one call, when all threads call it at once. Enough calls that starting the threads does not show: 2 ms.
  template <class Entry>
  double entry_seconds(const Entry& entry) {
    const auto batch = [&](int calls) {
      return least_seconds(7,
                           [&] {
                             pool_.run(Loop(1, pool_.size(), [&](std::int64_t unit, int thread) {
                               const kernels::AttentionParams params = rigs_[unit]->params();
                               const kernels::cpu::Scratch scratch{scratch_.get() + thread * scratch_stride_,
                                                                   scratch_stride_};
                               for (int call = 0; call < calls; ++call) entry(params, scratch);
                             }));
                           }) /
             calls;
    };
    const double about = std::max(batch(1), 1e-8);
    return batch(std::clamp(static_cast<int>(2e-3 / about), 4, 10000));
  }

  exec::ThreadPool& pool_;
  const kernels::cpu::Target& target_;
  std::size_t scratch_stride_;
  std::unique_ptr<std::byte, Free> scratch_;
  std::vector<std::unique_ptr<KernelRig>> rigs_;
};

void measure_kernels(exec::ThreadPool& pool, const kernels::cpu::Target& target, DeviceSpec& spec) {
  KernelTimer timer(pool, target, std::max(spec.wide.max_rows, spec.narrow.max_rows));
  const auto operations = [&](int rows) { return 4.0 * rows * KernelRig::head_dim * pool.size(); };
  for (DeviceSpec::Lane* lane : {&spec.wide, &spec.narrow}) {
    if (lane->max_rows == 0) continue;
    lane->flops = operations(lane->max_rows) / timer.item(lane->max_rows).each;
    // Of the smallest item: what more rows cost beside the arithmetic is their partials, which are counted as such.
    lane->item_seconds = timer.item(std::min(lane->row_granule, lane->max_rows)).fixed;
  }
  if (spec.narrow.max_rows > 0) {
    // A single row takes the time of this many: what loading and widening KV costs beside the arithmetic.
    const double single = timer.item(1).each, full = timer.item(spec.narrow.max_rows).each;
    const auto granule = static_cast<int>(std::lround(single / full * spec.narrow.max_rows));
    spec.narrow.row_granule = std::clamp(granule, 1, spec.narrow.max_rows);
  }
  spec.merge_seconds = timer.merge(1, 2);
  // A merge reads (head_dim + 1) floats per row and source; writing them, in the item, is taken to cost the same.
  constexpr double pairs = KernelRig::merge_rows * KernelRig::merge_sources;
  const double seconds = timer.merge(KernelRig::merge_rows, KernelRig::merge_sources);
  spec.partial_bandwidth = pairs * (KernelRig::head_dim + 1) * sizeof(float) * pool.size() / seconds;
}

void measure_phases(exec::ThreadPool& pool, DeviceSpec& spec) {
  constexpr int many = 65;
  const auto seconds = [&](int phases) {
    return least_seconds(200, [&] { pool.run(Loop(phases, pool.size(), [](std::int64_t, int) {})); });
  };
  const double one = seconds(1);
  spec.launch_seconds = one;
  spec.phase_seconds = std::max(0.0, (seconds(many) - one) / (many - 1));
}

}  // namespace

DeviceSpec calibrate(Device device, int num_threads) {
  exec::check_device(device, "device");
  if (device.kind == DeviceKind::cuda) return exec::cuda::calibrate(device);
  exec::check_num_threads(num_threads, "num_threads");
  const kernels::cpu::Target& target = kernels::cpu::targets().front();
  exec::ThreadPool pool(num_threads);
  DeviceSpec spec = DeviceSpec::generic_cpu(num_threads);
  spec.name = "cpu, " + std::string(target.name) + ", " + std::to_string(num_threads) + " threads, calibrated";
  spec.cache_bytes = cache_bytes(spec.cache_bytes);
  measure_reads(pool, spec);
  measure_kernels(pool, target, spec);
  measure_phases(pool, spec);
  spec.validate();
  return spec;
}

}  // namespace trunkline
