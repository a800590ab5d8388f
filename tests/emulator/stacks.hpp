// Stacks of fibers, kept for the next launch.
#pragma once

#include <sys/mman.h>

#include <boost/context/stack_context.hpp>
#include <cstddef>
#include <mutex>
#include <new>
#include <vector>

namespace trunkline::emulator {

/// For Boost.Context. Below each stack lies a page that ends the program of who runs over.
class Stacks {
 public:
  boost::context::stack_context allocate() {
    const std::scoped_lock lock(kept().mutex);
    boost::context::stack_context stack;
    stack.size = size;
    if (kept().ends.empty()) {
      stack.sp = make();
    } else {
      stack.sp = kept().ends.back();
      kept().ends.pop_back();
    }
    return stack;
  }
  void deallocate(boost::context::stack_context& stack) {
    const std::scoped_lock lock(kept().mutex);
    kept().ends.push_back(stack.sp);
  }

 private:
  static constexpr std::size_t size = 128 * 1024, guard = 4096;

  /// Returns its upper end.
  static void* make() {
    void* const memory =
        mmap(nullptr, guard + size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, guard, PROT_NONE) != 0) throw std::bad_alloc();
    return static_cast<std::byte*>(memory) + guard + size;
  }
  struct Kept {
    std::mutex mutex;
    std::vector<void*> ends;  // upper
  };
  /// Until the program ends, as many as ran at once.
  static Kept& kept() {
    static Kept& all = *new Kept;
    return all;
  }
};

}  // namespace trunkline::emulator
