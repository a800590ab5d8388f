// Counts what the copies of kernels read.
#pragma once

#include <cstddef>
#include <cstdint>

namespace trunkline::emulator {

/// Bytes that copies have read from a range of memory since this was made. One at a time.
class Traffic {
 public:
  Traffic(const void* begin, std::size_t bytes);
  ~Traffic();
  Traffic(const Traffic&) = delete;
  Traffic& operator=(const Traffic&) = delete;
  std::uint64_t bytes() const;
};

/// By every copy; plain loads are not counted.
void note_read(const void* from, std::size_t bytes);

}  // namespace trunkline::emulator
