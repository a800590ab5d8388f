// A growing array of int32 (tokens or pages) that can be cut at both ends and split in two.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <utility>

namespace trunkline::tree {

/// Memory stays within 2 * size + slack elements: what is cut off is given back once it outweighs what is left.
class Run {
 public:
  static constexpr std::int32_t slack = 16;  // elements that are never worth a reallocation

  Run() = default;
  Run(Run&& other) noexcept { *this = std::move(other); }
  Run& operator=(Run&& other) noexcept {
    data_ = std::move(other.data_);
    begin_ = std::exchange(other.begin_, 0);
    size_ = std::exchange(other.size_, 0);
    capacity_ = std::exchange(other.capacity_, 0);
    return *this;
  }

  std::int32_t size() const noexcept { return size_; }
  bool empty() const noexcept { return size_ == 0; }
  const std::int32_t* data() const noexcept { return data_.get() + begin_; }
  std::int32_t operator[](std::int32_t i) const noexcept { return data()[i]; }
  std::int32_t& operator[](std::int32_t i) noexcept { return data_.get()[begin_ + i]; }
  std::int32_t front() const noexcept { return (*this)[0]; }
  std::int32_t back() const noexcept { return (*this)[size_ - 1]; }

  std::span<const std::int32_t> view(std::int32_t first = 0) const noexcept { return view(first, size_ - first); }
  std::span<const std::int32_t> view(std::int32_t first, std::int32_t count) const noexcept {
    return {data() + first, static_cast<std::size_t>(count)};
  }

  /// `count` more elements, to be written by the caller.
  std::span<std::int32_t> grow(std::int32_t count) {
    if (begin_ + size_ + count > capacity_) {
      const std::int32_t needed = size_ + count;
      reallocate(size_ == 0 ? needed : std::max(needed, size_ + size_ / 2 + slack / 4));
    }
    size_ += count;
    return {data_.get() + begin_ + size_ - count, static_cast<std::size_t>(count)};
  }

  void append(std::span<const std::int32_t> values) { copy(values, grow(static_cast<std::int32_t>(values.size()))); }

  void drop_back(std::int32_t count) {
    size_ -= count;
    shrink();
  }

  void drop_front(std::int32_t count) {
    begin_ += count;
    size_ -= count;
    shrink();
  }

  /// Cuts off the first `count` elements and returns them. Copies the smaller part.
  Run split_front(std::int32_t count) {
    Run front;
    if (count <= size_ - count) {
      front.append(view(0, count));
      drop_front(count);
    } else {
      Run rest;
      rest.append(view(count));
      drop_back(size_ - count);
      front = std::exchange(*this, std::move(rest));
    }
    return front;
  }

  std::int64_t memory_bytes() const noexcept { return std::int64_t{capacity_} * 4; }

 private:
  static void copy(std::span<const std::int32_t> from, std::span<std::int32_t> to) {
    if (!from.empty()) {
      std::memcpy(to.data(), from.data(), from.size_bytes());
    }
  }

  void shrink() {
    if (size_ == 0) {
      begin_ = 0;
    }
    if (capacity_ > slack && size_ < capacity_ / 2) {
      reallocate(size_);
    }
  }

  void reallocate(std::int32_t capacity) {
    auto data = std::make_unique_for_overwrite<std::int32_t[]>(static_cast<std::size_t>(capacity));
    copy(view(), {data.get(), static_cast<std::size_t>(size_)});
    data_ = std::move(data);
    begin_ = 0;
    capacity_ = capacity;
  }

  std::unique_ptr<std::int32_t[]> data_;
  std::int32_t begin_ = 0;
  std::int32_t size_ = 0;
  std::int32_t capacity_ = 0;
};

}  // namespace trunkline::tree
