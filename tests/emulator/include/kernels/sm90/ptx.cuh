// The emulated device's, in place of src/kernels/sm90/ptx.cuh.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <cstring>

#include "emulator/device.hpp"
#include "emulator/tensor_map.hpp"
#include "emulator/traffic.hpp"
#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/launch_chain.cuh"

namespace trunkline::kernels::sm90::ptx {

using cuda::exp2;
using cuda::let_next_launch_start;
using cuda::log2;
using cuda::reciprocal;
using cuda::shared_address;
using emulator::arrive_cluster;
using emulator::arrive_threads;
using emulator::barrier_arrive;
using emulator::barrier_arrive_remote;
using emulator::barrier_init;
using emulator::barrier_invalidate;
using emulator::barrier_wait;
using emulator::cluster_rank;
using emulator::Place;
using emulator::remote_address;
using emulator::wait_cluster;

// --- mbarrier ---
inline void barrier_init_fence() {}
inline void barrier_expect_only(std::uint64_t* barrier, std::uint32_t bytes, Place place = Place::current()) {
  emulator::barrier_expect(barrier, bytes, place);
}
inline void barrier_expect(std::uint64_t* barrier, std::uint32_t bytes, Place place = Place::current()) {
  emulator::barrier_expect(barrier, bytes, place);
  emulator::barrier_arrive(barrier, place);
}
/// It may say no when the answer is yes: the other lanes see that a moment later.
inline bool barrier_passed(const std::uint64_t* barrier, std::uint32_t parity, Place place = Place::current()) {
  return emulator::barrier_passed(barrier, parity, place) && emulator::draw(64) != 0;
}

// --- named barriers ---
inline void sync_threads(int id, int threads, Place place = Place::current()) {
  emulator::sync_threads(id, threads, false, place);
}
inline bool sync_threads_or(int id, int threads, bool value, Place place = Place::current()) {
  return emulator::sync_threads(id, threads, value, place);
}

// --- copies ---
inline std::uint64_t policy_once() { return 1; }
inline std::uint64_t policy_normal() { return 0; }
inline void load_box_to(std::uint16_t ctas, void* to, const CUtensorMap* map, std::uint64_t* barrier, std::uint64_t,
                        int c0, int c1, int c2, int c3, int c4, Place place = Place::current()) {
  emulator::start_box_to(ctas, to, map, barrier, {c0, c1, c2, c3, c4}, place);
}
inline void load_rows(void* to, const CUtensorMap* map, std::uint64_t* barrier, int c0, int c1, int c2, int c3,
                      Place place = Place::current()) {
  emulator::start_box(to, map, barrier, {c0, c1, c2, c3}, place);
}
inline void prefetch(const void*) {}
inline void prefetch_map(const CUtensorMap*) {}
inline void copy_16(std::uint32_t to, const void* from, bool valid) { cuda::copy_async_16(to, from, valid); }
template <int bytes>
void copy_own(std::uint32_t to, const void* from, bool valid, Place place = Place::current()) {
  cuda::copy_async<bytes>(to, from, valid, place);
}
template <int count>
void load(std::uint32_t from, float (&to)[count], Place place = Place::current()) {
  std::memcpy(to, emulator::shared_memory(from, sizeof(to), place), sizeof(to));
}
inline void store_16(std::uint32_t to, const std::uint32_t (&words)[4], Place place = Place::current()) {
  std::memcpy(emulator::shared_memory(to, 16, place), words, 16);
}
inline void fence_async() {}

// --- roles ---
template <int registers>
void take_registers() {}
template <int registers>
void give_registers() {}

// --- chains of launches ---
inline void wait_for_last_launch() {}

// --- what the compiler may not move ---
template <class T>
T* known(T* pointer) {
  return pointer;
}
template <class Element>
void store_if(bool valid, Element* to, Element value) {
  if (valid) *to = value;
}
inline void store_if(bool valid, float* to, float low, float high) {
  if (!valid) return;
  to[0] = low;
  to[1] = high;
}
inline void store_transposed(std::uint32_t to, std::uint32_t a, std::uint32_t b, Place place = Place::current()) {
  const int lane = emulator::lane();
  const auto rows = emulator::exchange(to, "stmatrix", place);
  for (const auto& [first, word] : {std::pair{0, a}, std::pair{8, b}}) {
    for (int i = 0; i < 2; ++i) {
      const auto row = static_cast<std::uint32_t>(rows[static_cast<std::size_t>(first + lane % 4 * 2 + i)]);
      const auto bits = static_cast<std::uint16_t>(word >> (16 * i));
      std::memcpy(emulator::shared_memory(row, 16, place) + lane / 4 * 2, &bits, 2);
    }
  }
}

}  // namespace trunkline::kernels::sm90::ptx
