// The emulated device's, in place of src/kernels/cuda/async_copy.cuh.
#pragma once

#include <cstdint>
#include <cstring>

#include "emulator/device.hpp"
#include "emulator/traffic.hpp"

namespace trunkline::kernels::cuda {

template <int bytes>
void copy_async(std::uint32_t destination, const void* source, bool read, emulator::Place place) {
  std::byte* const to = emulator::shared_memory(destination, bytes, place);
  if (read && reinterpret_cast<std::uintptr_t>(source) % bytes != 0) emulator::fail("misaligned", place);
  emulator::start_copy([to, source, read] {
    if (read) {
      std::memcpy(to, source, bytes);
      emulator::note_read(source, bytes);
    } else {
      std::memset(to, 0, bytes);
    }
  });
}
inline void copy_async_16(std::uint32_t destination, const void* source, bool read,
                          emulator::Place place = emulator::Place::current()) {
  copy_async<16>(destination, source, read, place);
}
inline void commit_copies() { emulator::commit_copies(); }
inline void wait_copies(int pending) { emulator::wait_copies(pending); }
template <int pending>
void wait_copies() {
  emulator::wait_copies(pending);
}

}  // namespace trunkline::kernels::cuda
