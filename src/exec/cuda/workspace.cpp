#include "exec/cuda/workspace.hpp"

#include <algorithm>

#include "base/check.hpp"
#include "exec/carver.hpp"

namespace trunkline::exec::cuda {
namespace {

std::size_t count(std::int64_t value) { return static_cast<std::size_t>(value); }

// A block of threads copies one run; more entries than this would keep it busy for longer than others.
constexpr int max_run = 2048;
// Values in a slot: the whole table of 256 requests of 64 K tokens in pages of 16. Larger ones take several slots.
constexpr std::int64_t max_slot_values = 1 << 20;

}  // namespace

DeviceLayout DeviceLayout::carve(std::byte* block, const WorkspaceSizes& sizes) {
  Carver carver(block, alignment);
  DeviceLayout layout{};
  const std::size_t partial_rows = count(sizes.limits.max_partial_rows), heads = count(sizes.num_kv_heads);
  layout.plan = carver.take<std::byte>(plan_block_bytes(sizes));
  layout.table = carver.take<std::int32_t>(count(sizes.max_requests), count(sizes.max_table_width));
  layout.counters = carver.take<std::uint32_t>(kernels::num_counters);
  layout.partial_out = carver.take<float>(partial_rows, heads * count(sizes.head_dim));
  layout.partial_lse = carver.take<float>(partial_rows, heads);
  layout.bytes = carver.used();
  return layout;
}

DeviceWorkspace::DeviceWorkspace(const WorkspaceSizes& sizes, std::byte* block)
    : sizes_(sizes), tracker_(sizes.max_requests, sizes.max_table_width), plan_block_(sizes) {
  const DeviceGuard device(sizes.device.index);
  const CaptureAside capture;
  if (block == nullptr) {
    own_ = allocate_device(DeviceLayout::carve(nullptr, sizes).bytes);
    block = own_.get();
  } else {
    check_memory(block, sizes.device.index, "memory");
  }
  layout_ = DeviceLayout::carve(block, sizes);

  const std::int64_t table = std::int64_t{sizes.max_requests} * sizes.max_table_width;
  max_values_ = static_cast<int>(std::min(table, max_slot_values));
  // Room for a change of every row twice, and for every row's runs when the table is written as a whole.
  max_runs_ = 2 * sizes.max_requests + max_values_ / max_run + 1;
  const auto carve_slots = [&](std::byte* memory) {
    Carver carver(memory, DeviceLayout::alignment);
    for (Slot& slot : slots_) {
      slot.plan = carver.take<std::byte>(plan_block_bytes(sizes));
      slot.runs = carver.take<kernels::cuda::TableRun>(count(max_runs_));
      slot.values = carver.take<std::int32_t>(count(max_values_));
    }
    return carver.used();
  };
  pinned_ = allocate_pinned(carve_slots(nullptr));
  carve_slots(pinned_.get());

  check(static_cast<cudaError_t>(kernels::cuda::prepare_table()), "prepare_table");
  // Kernels find an empty plan before the first, and counters as a launch leaves them. The host waits, for streams
  // that do not follow the default one.
  check(cudaMemset(layout_.plan, 0, plan_block_bytes(sizes_)), "cudaMemset");
  check(cudaMemset(layout_.counters, 0, kernels::num_counters * sizeof(std::uint32_t)), "cudaMemset");
  check(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");
}

DeviceWorkspace::~DeviceWorkspace() {
  try {  // slots may still be read
    const DeviceGuard device(sizes_.device.index);
    const CaptureAside capture;
    for (const Slot& slot : slots_) slot.read.wait();
  } catch (const Error&) {  // NOLINT(bugprone-empty-catch)
    // The device has failed: nothing reads any more.
  }
}

void DeviceWorkspace::check_planning(Stream stream) const {
  const DeviceGuard device(sizes_.device.index);
  require(!is_capturing(stream), "stream", "a stream that does not capture: plan between replays",
          "one that captures a graph");
}

DeviceWorkspace::Slot& DeviceWorkspace::next_slot() {
  slot_ = (slot_ + 1) % num_slots;
  slots_[slot_].read.wait();
  num_singles_ = num_runs_ = num_values_ = 0;
  return slots_[slot_];
}

// The copy of the plan comes last: what is launched behind a copy waits for it whole, so the launch of a run that may
// begin before its predecessor ends finds table and plan complete.
void DeviceWorkspace::take(const Forest& forest, const Plan& plan, Stream stream) {
  const DeviceGuard device(sizes_.device.index);
  const CaptureAside capture;
  stream_ = to_cuda(stream);
  next_slot();
  tracker_.refresh(forest, [this](int row, int first, const std::int32_t* source, int number) {
    write_table(row, first, source, number);
  });
  enqueue_table();

  request_of_row_.clear();
  if (tracker_.rows_are_requests()) {
    request_of_row_.resize(count(forest.table().num_rows));
    const auto table_rows = forest.table_rows();
    for (std::size_t request = 0; request < table_rows.size(); ++request) {
      request_of_row_[table_rows[request]] = static_cast<std::int32_t>(request);
    }
  }
  Slot& slot = slots_[slot_];
  const std::size_t bytes = plan_block_.write(plan, forest.table(), request_of_row_, slot.plan);
  check(cudaMemcpyAsync(layout_.plan, slot.plan, bytes, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync");
  slot.read.record(stream_);
}

void DeviceWorkspace::write_table(int row, int first, const std::int32_t* source, int number) {
  std::int64_t index = std::int64_t{row} * sizes_.max_table_width + first;
  while (number > 0) {
    const int length = std::min({number, max_run, std::max(1, max_values_ - num_values_)});
    if (num_singles_ + num_runs_ == max_runs_ || (length < number && length < max_run && num_values_ > 0)) {
      enqueue_table();
      slots_[slot_].read.record(stream_);
      next_slot();
      continue;
    }
    Slot& slot = slots_[slot_];
    if (length == 1) {
      slot.runs[num_singles_++] = {index, 1, *source};
    } else {
      slot.runs[max_runs_ - ++num_runs_] = {index, length, num_values_};
      std::copy_n(source, length, slot.values + num_values_);
      num_values_ += length;
    }
    index += length;
    source += length;
    number -= length;
  }
}

void DeviceWorkspace::enqueue_table() {
  if (num_singles_ + num_runs_ == 0) return;
  const Slot& slot = slots_[slot_];
  const int result = kernels::cuda::write_table(layout_.table, slot.runs, num_singles_,
                                                slot.runs + max_runs_ - num_runs_, num_runs_, slot.values, stream_);
  check(static_cast<cudaError_t>(result), "write_table");
}

}  // namespace trunkline::exec::cuda
