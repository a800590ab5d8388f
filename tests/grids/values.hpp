// What q, K and V are made of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "trunkline/tensor.hpp"

namespace trunkline::grids {

enum class Pattern : std::uint8_t {
  normal,        // mean 0, deviation 1
  normal_tenth,  // times 0.1
  small,         // times 0.001
  doubled,       // times 2
  large,         // times 10
  uniform,       // [-1, 1)
  positive,      // |normal|
  negative,      // -|normal|
  ones,
  identity_v,    // q and K normal, V of token t is the unit vector t % head_dim
  zero_v,        // q and K normal, V is 0
  large_scores,  // q and K normal times 60: scores of up to 1e4 at head_dim 128; V normal
};
const char* to_string(Pattern pattern);

/// Rows of numbers of one dtype, as stored, cut at random from one long random row: fast enough for large batches.
class Values {
 public:
  /// A row has head_dim elements; the same (pattern, dtype, seed) gives the same rows in the same order.
  Values(Pattern pattern, DType dtype, int head_dim, unsigned seed);

  /// Write one row. `token` is the row's position, for patterns that depend on it.
  void write_qk(void* row);
  void write_v(void* row, std::int64_t token);

 private:
  void write(const std::vector<std::byte>& source, void* row);

  Pattern pattern_;
  DType dtype_;
  std::size_t head_dim_;
  std::uint64_t state_;
  std::vector<std::byte> qk_, v_;  // source_length + head_dim elements
};

}  // namespace trunkline::grids
