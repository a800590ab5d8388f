// Barriers of a CTA: by number, and in shared memory.
#include <iterator>
#include <utility>

#include "emulator/device.hpp"
#include "emulator/state.hpp"

namespace trunkline::emulator {
namespace {

/// What the word of a barrier in shared memory holds. Its phase ends when nothing more is to come.
struct BarrierWord {
  std::int32_t bytes;     // to come; below 0: they came before they were announced
  std::uint16_t pending;  // arrivals to come
  std::uint16_t arrivals : 15, phase : 1;
};
static_assert(sizeof(BarrierWord) == sizeof(std::uint64_t));

BarrierWord& word_of(std::uint64_t* barrier) { return *reinterpret_cast<BarrierWord*>(barrier); }
const BarrierWord& word_of(const std::uint64_t* barrier) { return *reinterpret_cast<const BarrierWord*>(barrier); }

void end_phase(Cta& cta, std::uint64_t* barrier) {
  BarrierWord& word = word_of(barrier);
  if (word.pending != 0 || word.bytes != 0) return;
  word.phase ^= 1u;
  word.pending = word.arrivals;
  std::erase_if(cta.waits, [&](const BarrierWait& wait) {
    const bool over = wait.barrier == barrier && word.phase != wait.parity;
    if (over) device().wake(*wait.thread);
    return over;
  });
}

NamedBarrier& named_barrier(int index, Place place) {
  if (index < 0 || index >= static_cast<int>(std::size(current_cta().named))) fail("there is no such barrier", place);
  return current_cta().named[index];
}

/// Returns whether it was the last arrival.
bool arrive(NamedBarrier& barrier, int threads, bool value, Place place) {
  if (threads == 0) threads = static_cast<int>(current_cta().threads.size());
  if (threads % warp_size != 0) fail("a barrier is for whole warps", place);
  if (barrier.arrived == 0) {
    barrier.expected = threads;
    barrier.any[barrier.generation % 2] = false;
  }
  if (barrier.expected != threads) fail("threads disagree on how many a barrier is for", place);
  barrier.any[barrier.generation % 2] |= value;
  if (++barrier.arrived < threads) return false;
  barrier.arrived = 0;
  ++barrier.generation;
  for (Thread* thread : std::exchange(barrier.waiting, {})) device().wake(*thread);
  return true;
}

}  // namespace

bool sync_threads(int index, int threads, bool value, Place place) {
  NamedBarrier& barrier = named_barrier(index, place);
  const unsigned generation = barrier.generation;
  if (!arrive(barrier, threads, value, place)) {
    barrier.waiting.push_back(&current());
    while (barrier.generation == generation) device().sleep("a barrier of the CTA", place);
  }
  const bool any = barrier.any[generation % 2];
  interrupt(place);
  return any;
}

void arrive_threads(int index, int threads, Place place) {
  arrive(named_barrier(index, place), threads, false, place);
  interrupt(place);
}

void check_barrier(const Cta& cta, const std::uint64_t* barrier, Place place) {
  if (!cta.barriers.contains(barrier)) fail("this barrier was not set up", place);
}

void arrive_at(Cta& cta, std::uint64_t* barrier, Place place) {
  check_barrier(cta, barrier, place);
  if (word_of(barrier).pending-- == 0) fail("one arrival too many", place);
  end_phase(cta, barrier);
}

void bytes_have_come(Cta& cta, std::uint64_t* barrier, std::uint32_t bytes, Place place) {
  check_barrier(cta, barrier, place);
  word_of(barrier).bytes -= static_cast<std::int32_t>(bytes);
  end_phase(cta, barrier);
}

void barrier_init(std::uint64_t* barrier, int arrivals, Place place) {
  shared_memory(shared_address(barrier, place), sizeof(*barrier), place);
  if (arrivals < 1 || arrivals > 0x7FFF) fail("a barrier of so many arrivals", place);
  if (!current_cta().barriers.emplace(barrier, place).second) fail("this barrier is set up already", place);
  word_of(barrier) = {0, static_cast<std::uint16_t>(arrivals), static_cast<std::uint16_t>(arrivals), 0};
}

void barrier_invalidate(std::uint64_t* barrier, Place place) {
  Cta& cta = current_cta();
  check_barrier(cta, barrier, place);
  const BarrierWord& word = word_of(barrier);
  if (word.pending != word.arrivals || word.bytes != 0) fail("this barrier is in use", place);
  for (const BarrierWait& wait : cta.waits) {
    if (wait.barrier == barrier) fail("a thread waits at this barrier", place);
  }
  cta.barriers.erase(barrier);
}

void barrier_arrive(std::uint64_t* barrier, Place place) {
  arrive_at(current_cta(), barrier, place);
  interrupt(place);
}

void barrier_expect(std::uint64_t* barrier, std::uint32_t bytes, Place place) {
  check_barrier(current_cta(), barrier, place);
  word_of(barrier).bytes += static_cast<std::int32_t>(bytes);
}

bool barrier_passed(const std::uint64_t* barrier, std::uint32_t parity, Place place) {
  check_barrier(current_cta(), barrier, place);
  return word_of(barrier).phase != parity;
}

void barrier_wait(const std::uint64_t* barrier, std::uint32_t parity, Place place) {
  while (!barrier_passed(barrier, parity, place)) {  // when woken it looks again, like the loop that it stands for
    current_cta().waits.push_back({&current(), barrier, parity});
    device().sleep("a barrier in shared memory", place);
  }
}

}  // namespace trunkline::emulator
