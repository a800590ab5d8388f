// A CUDA device on the CPU, for the logic of kernels: every thread is a fiber, and warps, barriers and what runs on its
// own are emulated. It is unkind: warps and parts of warps run in an order drawn at random, copies and products take
// place early or late, memory begins as NaN, and a wrong use ends the program and says where. What it leaves out: weak
// memory order and proxies, launches that begin before the one before has ended (griddepcontrol), registers, and time.
//
// Orders follow from TRUNKLINE_EMULATOR_SEED (a number, 0 by default), which a message names.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>

#include "kernels/cuda/launch_shape.hpp"

namespace trunkline::emulator {

using Place = std::source_location;
inline constexpr int warp_size = 32;

// --- launches ---
using kernels::cuda::LaunchShape;
inline std::uint64_t volume(const dim3& sizes) { return std::uint64_t{sizes.x} * sizes.y * sizes.z; }
/// Runs every thread of every CTA to its end, on the calling thread of the host.
void run(const LaunchShape& shape, const std::function<void()>& kernel);

// All below is for the threads of a kernel.

struct BuiltIn {
  uint3 thread, block;
  dim3 grid;
};
const BuiltIn& built_in();
inline int lane() { return static_cast<int>(built_in().thread.x % warp_size); }

/// Ends the program; says which thread it was, if one.
[[noreturn]] void fail(const char* what, Place place);
/// In [0, range).
unsigned draw(unsigned range);
/// Lets others run: in loops that poll memory.
void yield(Place place = Place::current());

// --- shared memory ---
std::byte* dynamic_shared_memory();
/// Behind the dynamic part; one object per kernel.
std::byte* static_shared_memory(std::size_t bytes, Place place = Place::current());
/// The address as instructions take it, and back, of `bytes` bytes at a multiple of `bytes`.
std::uint32_t shared_address(const void* pointer, Place place = Place::current());
std::byte* shared_memory(std::uint32_t address, std::size_t bytes, Place place = Place::current());

// --- warps ---
using Lanes = std::array<std::uint64_t, warp_size>;
/// Waits for all lanes of the warp, which bring a value each.
const Lanes& exchange(std::uint64_t mine, const char* operation, Place place = Place::current());
/// The same; before they go on, one of them does the work of all.
void together(std::uint64_t mine, const char* operation, const std::function<void(const Lanes&)>& work,
              Place place = Place::current());

// --- barriers of a CTA, by number ---
/// Of all threads of the CTA where `threads` is 0. Returns whether some thread brought true.
bool sync_threads(int barrier, int threads, bool value = false, Place place = Place::current());
void arrive_threads(int barrier, int threads, Place place = Place::current());

// --- clusters: CTAs [i, i + shape.cluster) ---
unsigned cluster_rank();
void arrive_cluster(Place place = Place::current());
/// For all threads of the cluster that have not ended to arrive as often as this one.
void wait_cluster(Place place = Place::current());
/// The address of the same object in shared memory of another CTA of the cluster.
std::uint32_t remote_address(const void* of_mine, unsigned rank, Place place = Place::current());

// --- barriers in shared memory ---
void barrier_init(std::uint64_t* barrier, int arrivals, Place place = Place::current());
void barrier_invalidate(std::uint64_t* barrier, Place place = Place::current());
void barrier_arrive(std::uint64_t* barrier, Place place = Place::current());
void barrier_arrive_remote(std::uint32_t barrier, Place place = Place::current());
/// More bytes are to come.
void barrier_expect(std::uint64_t* barrier, std::uint32_t bytes, Place place = Place::current());
bool barrier_passed(const std::uint64_t* barrier, std::uint32_t parity, Place place = Place::current());
void barrier_wait(const std::uint64_t* barrier, std::uint32_t parity, Place place = Place::current());

// --- copies ---
/// By the copy engine: some time from now, and then its bytes have come.
/// To the barrier's CTA, this one's or, by its rank, another of the cluster.
void start_bulk_copy(std::function<void()> copy, unsigned rank, std::uint64_t* barrier, std::uint32_t bytes,
                     Place place = Place::current());
/// Where an object of this CTA's shared memory lies in that of another CTA of the cluster.
std::byte* in_cta(unsigned rank, void* of_mine, Place place = Place::current());
/// cp.async: at this thread's wait for its group, or when this or a later one is committed.
void start_copy(std::function<void()> copy);
void commit_copies();
void wait_copies(int pending);

// --- products of a warp (wgmma): they take place in order, each group when it, or a later one, is committed or waited
// for ---
/// What one lane brings to a product.
struct Product {
  void (*compute)(const std::array<const Product*, warp_size>& lanes);
  float* d;            // its part of the result
  std::uint32_t a[4];  // its part of A, or
  std::uint64_t a_at;  // a descriptor of A
  std::uint64_t b_at;  // and of B
  bool accumulate;
  Place place = Place::current();
};
/// wgmma.fence, before the first product of a group.
void begin_products();
void start_product(const Product& mine);
void commit_products(Place place = Place::current());
void wait_products(int pending, Place place = Place::current());

}  // namespace trunkline::emulator
