// Cuts one block of memory into aligned arrays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "base/check.hpp"

namespace trunkline::exec {

/// With a null block, of address 0, the addresses are offsets.
class Carver {
 public:
  Carver(std::byte* block, std::size_t alignment) : block_(block), alignment_(alignment) {}

  /// count * each elements, none of them touched. Throws invalid_argument when they do not fit an address space.
  template <class T>
  T* take(std::size_t count, std::size_t each = 1) {
    std::size_t elements = 0, bytes = 0, end = 0;
    const bool overflow = __builtin_mul_overflow(count, each, &elements) ||
                          __builtin_mul_overflow(elements, sizeof(T), &bytes) ||
                          __builtin_add_overflow(bytes, used_ + alignment_, &end);
    require(!overflow && end < std::size_t{std::numeric_limits<std::ptrdiff_t>::max()}, "capacity",
            "a workspace that fits the address space", "more bytes than that");
    // NOLINTNEXTLINE(performance-no-int-to-ptr): the block may be null, to measure
    auto* result = reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(block_) + used_);
    used_ = round_up(used_ + bytes, alignment_);
    return result;
  }

  std::size_t used() const { return used_; }

 private:
  std::byte* block_;
  std::size_t alignment_;
  std::size_t used_ = 0;
};

}  // namespace trunkline::exec
