#include "emulator/traffic.hpp"

#include <atomic>

namespace trunkline::emulator {
namespace {

std::atomic<const std::byte*> first = nullptr, last = nullptr;
std::atomic<std::uint64_t> count = 0;

}  // namespace

Traffic::Traffic(const void* begin, std::size_t bytes) {
  count = 0;
  first = static_cast<const std::byte*>(begin);
  last = static_cast<const std::byte*>(begin) + bytes;
}
Traffic::~Traffic() { first = last = nullptr; }

std::uint64_t Traffic::bytes() const { return count; }

void note_read(const void* from, std::size_t bytes) {
  if (from >= first.load() && from < last.load()) count += bytes;
}

}  // namespace trunkline::emulator
