// Which table row a request id stands for.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "trunkline/forest.hpp"

namespace trunkline::forest {

class RequestIndex {
 public:
  struct Entry {
    RequestId id;
    std::int32_t row;
    friend bool operator<(const Entry& a, const Entry& b) noexcept { return a.id < b.id; }
  };

  /// Takes entries in any order. Returns an id that comes twice, if there is one; the index is then unusable.
  std::optional<RequestId> build(std::span<const Entry> entries);
  /// The request's row, or -1.
  std::int32_t find(RequestId id) const noexcept;
  /// Takes out the ids of the rows with requests[row] < 0.
  void erase_rows(std::span<const std::int32_t> requests);
  /// Ids that are not in it yet.
  void insert(std::span<const Entry> entries);

 private:
  std::vector<Entry> entries_;  // ascending by id: small, cheap to copy, and the same on every machine
};

}  // namespace trunkline::forest
