// The emulated device's, in place of src/kernels/cuda/instructions.cuh.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "emulator/device.hpp"

namespace trunkline::kernels::cuda {

template <int alignment>
std::uint8_t* dynamic_shared_memory() {
  static_assert(alignment <= 1024);
  return reinterpret_cast<std::uint8_t*>(emulator::dynamic_shared_memory());
}
template <class T>
T& shared_object() {
  return *reinterpret_cast<T*>(emulator::static_shared_memory(sizeof(T)));
}
inline std::uint32_t shared_address(const void* pointer) { return emulator::shared_address(pointer); }
inline std::uint32_t load_shared(std::uint32_t from, emulator::Place place = emulator::Place::current()) {
  return *reinterpret_cast<const std::uint32_t*>(emulator::shared_memory(from, 4, place));
}
inline void store_shared(std::uint32_t to, std::uint32_t word, emulator::Place place = emulator::Place::current()) {
  *reinterpret_cast<std::uint32_t*>(emulator::shared_memory(to, 4, place)) = word;
}

inline std::uint32_t load_relaxed(const std::uint32_t* word, emulator::Place place = emulator::Place::current()) {
  emulator::yield(place);
  return *word;
}
inline std::uint32_t load_acquire(const std::uint32_t* word, emulator::Place place = emulator::Place::current()) {
  return load_relaxed(word, place);
}
inline void add_release(std::uint32_t* word, std::uint32_t value) {
  emulator::yield();
  *word += value;
}

inline float exp2(float x) {
  const float y = std::exp2(x);
  return y < FLT_MIN ? 0 : y;
}
inline float log2(float x) { return std::log2(x < FLT_MIN ? 0 : x); }
inline float reciprocal(float x) { return 1 / (x < FLT_MIN ? 0 : x); }

}  // namespace trunkline::kernels::cuda
