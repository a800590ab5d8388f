// What nvcc knows without an include. The compiler of the emulated kernels includes it first.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "emulator/device.hpp"

#define __launch_bounds__(...)
#define threadIdx (::trunkline::emulator::built_in().thread)
#define blockIdx (::trunkline::emulator::built_in().block)
#define gridDim (::trunkline::emulator::built_in().grid)

namespace trunkline::emulator {
template <class T>
std::uint64_t to_word(T value) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t));
  std::uint64_t word = 0;
  std::memcpy(&word, &value, sizeof(T));
  return word;
}
template <class T>
T from_word(std::uint64_t word) {
  T value;
  std::memcpy(&value, &word, sizeof(T));
  return value;
}
inline void check_all_lanes(unsigned mask, Place place) {
  if (mask != 0xFFFFFFFFu) fail("only whole warps are emulated", place);
}
template <class T, class Combine>
T reduce(unsigned mask, T value, const char* operation, Combine combine, Place place) {
  check_all_lanes(mask, place);
  const Lanes& lanes = exchange(to_word(value), operation, place);
  T result = from_word<T>(lanes[0]);
  for (std::size_t i = 1; i < lanes.size(); ++i) result = combine(result, from_word<T>(lanes[i]));
  return result;
}
}  // namespace trunkline::emulator

using EmulatorPlace = trunkline::emulator::Place;

// --- warps ---
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, EmulatorPlace place = EmulatorPlace::current()) {
  trunkline::emulator::check_all_lanes(mask, place);
  return trunkline::emulator::from_word<T>(trunkline::emulator::exchange(trunkline::emulator::to_word(value), "shfl",
                                                                         place)[static_cast<unsigned>(lane) % 32]);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, EmulatorPlace place = EmulatorPlace::current()) {
  return __shfl_sync(mask, value, trunkline::emulator::lane() ^ lanes, place);
}
inline unsigned __ballot_sync(unsigned mask, bool value, EmulatorPlace place = EmulatorPlace::current()) {
  const unsigned mine = value ? 1u << trunkline::emulator::lane() : 0;
  return trunkline::emulator::reduce(mask, mine, "vote", [](unsigned a, unsigned b) { return a | b; }, place);
}
inline bool __any_sync(unsigned mask, bool value, EmulatorPlace place = EmulatorPlace::current()) {
  return __ballot_sync(mask, value, place) != 0;
}
inline bool __all_sync(unsigned mask, bool value, EmulatorPlace place = EmulatorPlace::current()) {
  return __ballot_sync(mask, value, place) == 0xFFFFFFFFu;
}
template <class T>
T __reduce_min_sync(unsigned mask, T value, EmulatorPlace place = EmulatorPlace::current()) {
  return trunkline::emulator::reduce(mask, value, "redux", [](T a, T b) { return std::min(a, b); }, place);
}
template <class T>
T __reduce_max_sync(unsigned mask, T value, EmulatorPlace place = EmulatorPlace::current()) {
  return trunkline::emulator::reduce(mask, value, "redux", [](T a, T b) { return std::max(a, b); }, place);
}
inline void __syncwarp(EmulatorPlace place = EmulatorPlace::current()) {
  trunkline::emulator::exchange(0, "syncwarp", place);
}
inline void __syncthreads(EmulatorPlace place = EmulatorPlace::current()) {
  trunkline::emulator::sync_threads(0, 0, false, place);
}

// --- memory ---
template <class T>
T __ldg(const T* from) {
  return *from;
}
template <class T>
T __ldcg(const T* from) {
  return *from;
}
inline void __threadfence() {}
inline unsigned atomicAdd(unsigned* word, unsigned value, EmulatorPlace place = EmulatorPlace::current()) {
  trunkline::emulator::yield(place);
  const unsigned before = *word;
  *word += value;
  return before;
}

// --- arithmetic ---
template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  return b < a ? b : a;
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  return a < b ? b : a;
}
inline float __fdividef(float a, float b) { return a / b; }
inline float __log2f(float x) { return log2f(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }

// --- the host's side: what the runtime knows of any kernel here ---
template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*)(Parameters...), cudaFuncAttribute, int) {
  return cudaSuccess;
}
template <class... Parameters>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, void (*)(Parameters...)) {
  return cudaSuccess;
}
template <class... Parameters>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void (*)(Parameters...), int, std::size_t) {
  *blocks = 2;
  return cudaSuccess;
}
