// What the emulated device keeps of a launch.
#pragma once

#include <boost/context/fiber.hpp>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <random>
#include <span>
#include <vector>

#include "emulator/device.hpp"

namespace trunkline::emulator {

using Work = std::function<void()>;
/// Empty when done.
using Copies = std::vector<Work>;
struct Cta;
struct Warp;

struct Thread {
  BuiltIn built_in;
  Warp* warp = nullptr;
  Cta* cta = nullptr;
  boost::context::fiber fiber;
  const char* waits_for = "its start";
  Place place = Place::current();
  bool done = false;
  unsigned cluster_arrivals = 0, cluster_waits = 0;
  Copies copies;                   // cp.async, of the open group
  std::deque<Copies> copy_groups;  // closed ones
  std::vector<Product> products;   // of the open group
  bool products_begun = false;
};

struct Warp {
  Thread* threads = nullptr;  // lanes
  int size = 0;
  std::uint32_t ready = 0;  // lanes that can go on
  bool listed = false;      // among the device's ready warps
  // What the lanes do together at present; two generations, as late lanes still read the one before.
  const char* operation = nullptr;
  Lanes brought[2];
  int arrived = 0;
  unsigned generation = 0;
  std::deque<std::array<std::vector<Product>, warp_size>> product_groups;  // committed, not yet computed
};

struct NamedBarrier {
  int expected = 0, arrived = 0;
  unsigned generation = 0;
  bool any[2] = {};
  std::vector<Thread*> waiting;
};

struct BarrierWait {
  Thread* thread;
  const std::uint64_t* barrier;
  std::uint32_t parity;
};

/// What a cluster meets at: its generation ends when no thread is missing.
struct Cluster {
  int live = 0, missing = 0;  // threads that have not ended, and that have yet to arrive
  unsigned generation = 0;
  std::vector<Thread*> waiting;
};

struct Cta {
  Cluster* cluster = nullptr;
  unsigned rank = 0;  // in it
  int live = 0;       // threads that have not ended
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<std::byte> memory;
  std::span<std::byte> dynamic, object;  // shared memory, the second behind the first
  NamedBarrier named[16];
  std::map<const std::uint64_t*, Place> barriers;  // in shared memory, and where they were set up
  std::vector<BarrierWait> waits;                  // at those
};

/// CTAs that run side by side.
class Device {
 public:
  Device(const LaunchShape& shape, const Work& kernel, unsigned seed);
  /// CTAs [first, first + count) of the launch, to their end.
  void run(unsigned first, unsigned count);

  /// Null while something runs on its own.
  Thread* current() { return current_; }
  unsigned seed() const { return seed_; }
  unsigned draw(unsigned range) { return static_cast<unsigned>(random_() % range); }
  void wake(Thread& thread);
  /// Stops the current thread until someone wakes it; this may happen for no reason.
  void sleep(const char* waits_for, Place place);
  /// Stops the current thread until nothing else goes on, or a while less.
  void hold_back(Place place);
  /// Something that takes place some time from now.
  void start(Work work) { running_.push_back(std::move(work)); }
  /// CTA `rank` of the current thread's cluster. Fails when it has ended.
  Cta& neighbour(unsigned rank, Place place);
  void arrive_cluster(Thread& thread);

 private:
  void prepare(Cta& cta, unsigned index);
  void end(Thread& thread);
  void end_generation(Cluster& cluster);
  void schedule();
  void run_warp(Warp& warp);
  void resume(Thread& thread);
  /// Ends the program if some thread has not ended.
  void check_end() const;
  template <class T>
  T take_any(std::vector<T>& from);

  const LaunchShape& shape_;
  const Work& kernel_;
  unsigned seed_;
  std::mt19937 random_;
  std::vector<Cta> ctas_;
  std::vector<Cluster> clusters_;
  std::vector<Warp*> ready_;
  std::vector<Work> running_;
  std::deque<Thread*> held_back_;
  Thread* current_ = nullptr;
  boost::context::fiber scheduler_;
};

/// The one that runs on this thread of the host, its current thread, and that one's CTA.
Device& device();
inline Thread& current() { return *device().current(); }
inline Cta& current_cta() { return *current().cta; }

/// After something that others wait for: what this thread should have done before, it may now do too late.
void interrupt(Place place);

/// Arrives at a barrier in shared memory on behalf of a thread of the CTA, and tells it of bytes that have come.
void arrive_at(Cta& cta, std::uint64_t* barrier, Place place);
void bytes_have_come(Cta& cta, std::uint64_t* barrier, std::uint32_t bytes, Place place);
/// Fails unless the barrier was set up.
void check_barrier(const Cta& cta, const std::uint64_t* barrier, Place place);

}  // namespace trunkline::emulator
