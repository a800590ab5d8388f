// Launches, threads and warps.
#include "emulator/device.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "emulator/stacks.hpp"
#include "emulator/state.hpp"

namespace trunkline::emulator {
namespace {

constexpr std::uint32_t first_shared_address = 1024;  // below lies what the system reserves
constexpr unsigned rank_shift = 24;                   // of an address in another CTA
constexpr std::size_t most_static_bytes = 48 * 1024;
// CTAs of a launch that is not cooperative that run side by side; others follow.
constexpr unsigned most_resident = 16;

thread_local Device* the_device = nullptr;

uint3 index_of(unsigned i, const dim3& sizes) { return {i % sizes.x, i / sizes.x % sizes.y, i / sizes.x / sizes.y}; }

}  // namespace

Device& device() { return *the_device; }

Device::Device(const LaunchShape& shape, const Work& kernel, unsigned seed)
    : shape_(shape), kernel_(kernel), seed_(seed), random_(seed) {}

void Device::run(unsigned first, unsigned count) {
  const auto cluster = static_cast<unsigned>(shape_.cluster);
  ctas_ = std::vector<Cta>(count);
  clusters_ = std::vector<Cluster>(count / cluster);
  for (unsigned i = 0; i < count; ++i) {
    ctas_[i].cluster = &clusters_[i / cluster];
    ctas_[i].rank = i % cluster;
    prepare(ctas_[i], first + i);
  }
  schedule();
  check_end();
}

void Device::prepare(Cta& cta, unsigned index) {
  constexpr std::size_t alignment = 1024;
  std::size_t space = shape_.shared_bytes + most_static_bytes + alignment;
  cta.memory.assign(space, std::byte{0xFF});  // NaN, for who reads before he writes
  void* memory = cta.memory.data();
  cta.dynamic = {static_cast<std::byte*>(std::align(alignment, 1, memory, space)), shape_.shared_bytes};

  const auto num_threads = static_cast<unsigned>(volume(shape_.block));
  cta.live = static_cast<int>(num_threads);
  cta.cluster->live += cta.live;
  cta.cluster->missing += cta.live;
  cta.threads = std::vector<Thread>(num_threads);
  cta.warps = std::vector<Warp>((num_threads + warp_size - 1) / warp_size);
  for (unsigned t = 0; t < num_threads; ++t) {
    Thread& thread = cta.threads[t];
    thread.built_in = {index_of(t, shape_.block), index_of(index, shape_.grid), shape_.grid};
    thread.cta = &cta;
    thread.warp = &cta.warps[t / warp_size];
    if (t % warp_size == 0) thread.warp->threads = &thread;
    ++thread.warp->size;
    thread.fiber = boost::context::fiber(std::allocator_arg, Stacks(), [this, &thread](boost::context::fiber&& back) {
      scheduler_ = std::move(back);
      kernel_();
      end(thread);
      return std::move(scheduler_);
    });
    wake(thread);
  }
}

void Device::end(Thread& thread) {
  thread.done = true;
  --thread.cta->live;
  Cluster& cluster = *thread.cta->cluster;
  --cluster.live;
  if (thread.cluster_arrivals == cluster.generation) --cluster.missing;
  end_generation(cluster);
}

void Device::arrive_cluster(Thread& thread) {
  ++thread.cluster_arrivals;
  --thread.cta->cluster->missing;
  end_generation(*thread.cta->cluster);
}

void Device::end_generation(Cluster& cluster) {
  if (cluster.missing != 0 || cluster.live == 0) return;
  cluster.missing = cluster.live;
  ++cluster.generation;
  for (Thread* thread : std::exchange(cluster.waiting, {})) wake(*thread);
}

Cta& Device::neighbour(unsigned rank, Place place) {
  if (rank >= static_cast<unsigned>(shape_.cluster)) fail("the cluster has no such CTA", place);
  Cta& cta = *(current_->cta - current_->cta->rank + rank);
  if (cta.live == 0) fail("a CTA of the cluster that has ended is written to", place);
  return cta;
}

void Device::wake(Thread& thread) {
  Warp& warp = *thread.warp;
  warp.ready |= 1u << (&thread - warp.threads);
  if (!warp.listed) ready_.push_back(&warp);
  warp.listed = true;
}

void Device::sleep(const char* waits_for, Place place) {
  current_->waits_for = waits_for;
  current_->place = place;
  scheduler_ = std::move(scheduler_).resume();
}

void Device::hold_back(Place place) {
  held_back_.push_back(current_);
  sleep("its turn", place);
}

void Device::resume(Thread& thread) {
  current_ = &thread;
  thread.fiber = std::move(thread.fiber).resume();
}

template <class T>
T Device::take_any(std::vector<T>& from) {
  std::swap(from[draw(static_cast<unsigned>(from.size()))], from.back());
  T taken = std::move(from.back());
  from.pop_back();
  return taken;
}

void Device::schedule() {
  unsigned idle = 0;  // threads that went on since anything else did
  for (;;) {
    const bool others = !ready_.empty() || !running_.empty();
    if (!held_back_.empty() && (!others || draw(64) == 0)) {
      // Those that poll may do so for ever.
      if (others) idle = 0;
      if (++idle > 1000 + 100 * held_back_.size()) return check_end();
      Thread& thread = *held_back_.front();
      held_back_.pop_front();
      resume(thread);
      continue;
    }
    idle = 0;
    if (!running_.empty() && (ready_.empty() || draw(4) == 0)) {
      current_ = nullptr;
      take_any(running_)();
    } else if (!ready_.empty()) {
      run_warp(*take_any(ready_));
    } else {
      return;
    }
  }
}

void Device::run_warp(Warp& warp) {
  warp.listed = false;
  std::uint32_t lanes = std::exchange(warp.ready, 0);
  if (draw(4) == 0) {  // some of them later
    const std::uint32_t later = lanes & static_cast<std::uint32_t>(random_());
    for (std::uint32_t rest = later; rest != 0; rest &= rest - 1) wake(warp.threads[std::countr_zero(rest)]);
    lanes ^= later;
  }
  const unsigned first = draw(warp_size);
  for (unsigned i = 0; i < warp_size; ++i) {
    const unsigned at = (first + i) % warp_size;
    if ((lanes >> at & 1) != 0) resume(warp.threads[at]);
  }
}

void Device::check_end() const {
  bool ended = true;
  for (const Cta& cta : ctas_) {
    const Thread* before = nullptr;
    for (const Thread& thread : cta.threads) {
      if (thread.done) continue;
      if (std::exchange(ended, false)) {
        std::fprintf(stderr, "emulated device (seed %u): no thread can go on\n", seed_);
      }
      const bool same = before != nullptr && before->warp == thread.warp && before->waits_for == thread.waits_for &&
                        before->place.line() == thread.place.line();
      before = &thread;
      if (same) continue;
      std::fprintf(stderr, "  CTA %u thread %u waits for %s at %s:%u\n", thread.built_in.block.x,
                   thread.built_in.thread.x, thread.waits_for, thread.place.file_name(),
                   static_cast<unsigned>(thread.place.line()));
    }
  }
  if (!ended) std::abort();
}

void run(const LaunchShape& shape, const std::function<void()>& kernel) {
  static std::atomic<unsigned> launches = [] {
    const char* const given = std::getenv("TRUNKLINE_EMULATOR_SEED");
    return given == nullptr ? 0u : static_cast<unsigned>(std::strtoul(given, nullptr, 10));
  }();
  const auto count = static_cast<unsigned>(volume(shape.grid));
  if (shape.cluster < 1 || count % static_cast<unsigned>(shape.cluster) != 0 ||
      most_resident % static_cast<unsigned>(shape.cluster) != 0) {
    std::fprintf(stderr, "emulated device: %u CTAs in clusters of %d\n", count, shape.cluster);
    std::abort();
  }
  const unsigned at_once = shape.persistent ? count : std::min(count, most_resident);
  for (unsigned first = 0; first < count; first += at_once) {
    Device here(shape, kernel, launches++);
    the_device = &here;
    here.run(first, std::min(at_once, count - first));
    the_device = nullptr;
  }
}

const BuiltIn& built_in() { return current().built_in; }

void fail(const char* what, Place place) {
  std::fprintf(stderr, "emulated device (seed %u): ", device().seed());
  if (const Thread* const at = device().current()) {
    std::fprintf(stderr, "CTA %u thread %u: ", at->built_in.block.x, at->built_in.thread.x);
  }
  std::fprintf(stderr, "%s (%s:%u)\n", what, place.file_name(), static_cast<unsigned>(place.line()));
  std::abort();
}

unsigned draw(unsigned range) { return device().draw(range); }
void yield(Place place) { device().hold_back(place); }
void interrupt(Place place) {
  if (draw(8) == 0) device().hold_back(place);
}

// --- shared memory ---

std::byte* dynamic_shared_memory() { return current_cta().dynamic.data(); }

std::byte* static_shared_memory(std::size_t bytes, Place place) {
  constexpr std::size_t alignment = 128;
  Cta& cta = current_cta();
  if (cta.object.empty()) {
    if (bytes > most_static_bytes - alignment) fail("too large for shared memory", place);
    cta.object = {cta.dynamic.data() + (cta.dynamic.size() + alignment - 1) / alignment * alignment, bytes};
  }
  if (cta.object.size() != bytes) fail("a second object in shared memory", place);
  return cta.object.data();
}

namespace {

/// Whether `bytes` bytes from there on, counted from where shared memory begins, are the kernel's.
bool is_shared(std::size_t offset, std::size_t bytes) {
  const Cta& cta = current_cta();
  const auto within = [&](std::span<std::byte> part) {
    const auto first = static_cast<std::size_t>(part.data() - cta.dynamic.data());
    return !part.empty() && offset >= first && offset + bytes <= first + part.size();
  };
  return within(cta.dynamic) || within(cta.object);
}

}  // namespace

std::uint32_t shared_address(const void* pointer, Place place) {
  const auto offset = static_cast<std::size_t>(static_cast<const std::byte*>(pointer) - dynamic_shared_memory());
  if (!is_shared(offset, 1)) fail("not an address in shared memory", place);
  return first_shared_address + static_cast<std::uint32_t>(offset);
}

std::byte* shared_memory(std::uint32_t address, std::size_t bytes, Place place) {
  if (address < first_shared_address || !is_shared(address - first_shared_address, bytes)) {
    fail("outside shared memory", place);
  }
  if (address % bytes != 0) fail("misaligned", place);
  return dynamic_shared_memory() + (address - first_shared_address);
}

// --- clusters ---

unsigned cluster_rank() { return current_cta().rank; }

void arrive_cluster(Place place) {
  if (current().cluster_arrivals != current().cluster_waits) fail("arrives again before it has waited", place);
  device().arrive_cluster(current());
  interrupt(place);
}

void wait_cluster(Place place) {
  Thread& thread = current();
  if (thread.cluster_arrivals == thread.cluster_waits) fail("waits for its cluster and has not arrived", place);
  Cluster& cluster = *thread.cta->cluster;
  while (cluster.generation < thread.cluster_arrivals) {
    cluster.waiting.push_back(&thread);
    device().sleep("the threads of the cluster", place);
  }
  ++thread.cluster_waits;
}

std::uint32_t remote_address(const void* of_mine, unsigned rank, Place place) {
  if (rank >= 256) fail("there is no such CTA", place);
  return shared_address(of_mine, place) | rank << rank_shift;
}

void barrier_arrive_remote(std::uint32_t barrier, Place place) {
  Cta& cta = device().neighbour(barrier >> rank_shift, place);
  std::byte* const here = shared_memory(barrier & ((1u << rank_shift) - 1), sizeof(std::uint64_t), place);
  arrive_at(cta, reinterpret_cast<std::uint64_t*>(in_cta(cta.rank, here, place)), place);
  interrupt(place);
}

// --- warps ---

void together(std::uint64_t mine, const char* operation, const std::function<void(const Lanes&)>& work, Place place) {
  Warp& warp = *current().warp;
  if (warp.size != warp_size) fail("the warp is not whole", place);
  if (warp.arrived == 0) warp.operation = operation;
  if (std::strcmp(warp.operation, operation) != 0) {
    fail((std::string("lanes of one warp are at ") + warp.operation + " and " + operation).c_str(), place);
  }
  const unsigned generation = warp.generation;
  warp.brought[generation % 2][static_cast<std::size_t>(lane())] = mine;
  if (++warp.arrived < warp_size) {
    while (warp.generation == generation) device().sleep(operation, place);
    return;
  }
  if (work) work(warp.brought[generation % 2]);
  warp.arrived = 0;
  ++warp.generation;
  for (int i = 0; i < warp_size; ++i) {
    if (warp.threads + i != &current()) device().wake(warp.threads[i]);
  }
}

const Lanes& exchange(std::uint64_t mine, const char* operation, Place place) {
  const Warp& warp = *current().warp;
  const unsigned generation = warp.generation;
  together(mine, operation, nullptr, place);
  return warp.brought[generation % 2];
}

}  // namespace trunkline::emulator
