// Large memory as a KV pool has it: page-aligned, on huge pages where the system gives them.
#pragma once

#include <cstddef>
#include <utility>

namespace trunkline::tools {

class Buffer {
 public:
  Buffer() = default;
  /// Zeroed. Throws std::bad_alloc.
  explicit Buffer(std::size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  void* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return bytes_; }
  /// Every byte 0xFF: a NaN in every floating-point format.
  void poison();

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// Bytes that a process may still take without swapping; a guess of 4 GiB where the system does not say.
std::size_t available_memory();
/// Bytes of the largest cache; 0 where the system does not say.
std::size_t last_level_cache_bytes();

}  // namespace trunkline::tools
