// Stacks of fibers, kept for the next launch.
#pragma once

#include <boost/context/stack_context.hpp>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <vector>

namespace trunkline::emulator {

class Stacks {
 public:
  using traits_type = struct {};
  boost::context::stack_context allocate() {
    if (kept().empty()) kept().emplace_back(new std::byte[size]);
    boost::context::stack_context stack;
    stack.size = size;
    stack.sp = kept().back().release() + size;
    kept().pop_back();
    return stack;
  }
  void deallocate(boost::context::stack_context& stack) {
    kept().emplace_back(static_cast<std::byte*>(stack.sp) - size);
  }

 private:
  static constexpr std::size_t size = 64 * 1024;
  static std::vector<std::unique_ptr<std::byte[]>>& kept() {
    static thread_local std::vector<std::unique_ptr<std::byte[]>> stacks;
    return stacks;
  }
};

}  // namespace trunkline::emulator
