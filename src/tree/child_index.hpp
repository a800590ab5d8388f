// All edges of the tree in one hash table: (parent node, first token) -> child node.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace trunkline::tree {

/// Open addressing with linear probing. One table for the whole tree: a node needs no storage for its children, and a
/// root with 10,000 of them is looked up like any other node.
class ChildIndex {
 public:
  static constexpr std::int32_t none = -1;

  ChildIndex() : slots_(16) {}

  std::int32_t find(std::int32_t parent, std::int32_t token) const noexcept {
    return slots_[locate(parent, token)].node;
  }

  /// Adds the edge, or lets it lead to another node.
  void set(std::int32_t parent, std::int32_t token, std::int32_t node) {
    if (2 * (size_ + 1) > slots_.size()) {
      rehash(2 * slots_.size());
    }
    Slot& slot = slots_[locate(parent, token)];
    size_ += slot.node == none;
    slot = {parent, token, node};
  }

  void erase(std::int32_t parent, std::int32_t token) noexcept {
    std::size_t hole = locate(parent, token);
    if (slots_[hole].node == none) {
      return;
    }
    --size_;
    // Close the gap: an entry moves into the hole unless its home lies cyclically in (hole, entry].
    const std::size_t mask = slots_.size() - 1;
    for (std::size_t i = (hole + 1) & mask; slots_[i].node != none; i = (i + 1) & mask) {
      const std::size_t home = hash(slots_[i].parent, slots_[i].token) & mask;
      if (((i - home) & mask) >= ((i - hole) & mask)) {
        slots_[hole] = slots_[i];
        hole = i;
      }
    }
    slots_[hole].node = none;
    if (slots_.size() > 16 && 8 * size_ < slots_.size()) {
      rehash(slots_.size() / 2);
    }
  }

  std::size_t size() const noexcept { return size_; }
  std::int64_t memory_bytes() const noexcept { return static_cast<std::int64_t>(slots_.capacity() * sizeof(Slot)); }

 private:
  struct Slot {
    std::int32_t parent = 0;
    std::int32_t token = 0;
    std::int32_t node = none;
  };

  static std::size_t hash(std::int32_t parent, std::int32_t token) noexcept {
    // Multiply by the golden ratio in 64 bits and fold: neighbouring tokens and parents spread over the table.
    std::uint64_t key = (std::uint64_t{static_cast<std::uint32_t>(parent)} << 32) | static_cast<std::uint32_t>(token);
    key *= 0x9E3779B97F4A7C15u;
    key ^= key >> 32;
    key *= 0x9E3779B97F4A7C15u;
    return static_cast<std::size_t>(key >> 32);
  }

  /// The slot of this edge, or the free slot where it would go.
  std::size_t locate(std::int32_t parent, std::int32_t token) const noexcept {
    const std::size_t mask = slots_.size() - 1;
    std::size_t i = hash(parent, token) & mask;
    while (slots_[i].node != none && (slots_[i].parent != parent || slots_[i].token != token)) {
      i = (i + 1) & mask;
    }
    return i;
  }

  void rehash(std::size_t num_slots) {
    const std::vector<Slot> old = std::exchange(slots_, std::vector<Slot>(num_slots));
    for (const Slot& slot : old) {
      if (slot.node != none) {
        slots_[locate(slot.parent, slot.token)] = slot;
      }
    }
  }

  std::vector<Slot> slots_;  // a power of two, at most half full
  std::size_t size_ = 0;
};

}  // namespace trunkline::tree
