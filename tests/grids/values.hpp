// What q, K and V are made of.
#pragma once

#include <array>
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
  large_v,       // q and K normal, V normal times 1e4: up to the end of f16
  far_below,     // q positive, K negative, both times 100: every score is about -7e4 at head_dim 128; V normal
  half_masked,   // q positive, K normal or, every other token, about -1e4: scores as a mask that is added gives them
  rising,        // q positive, K higher from 64 tokens to 64: scores grow by about 2^20, more than f16 holds at once
};
const char* to_string(Pattern pattern);

/// Rows of numbers of one dtype, as stored, cut at random from one long random row: fast enough for large batches.
class Values {
 public:
  /// A row has head_dim elements; the same (pattern, dtype, seed) gives the same rows in the same order.
  Values(Pattern pattern, DType dtype, int head_dim, unsigned seed);

  /// Write one row. `token` is the row's position, for patterns that depend on it.
  void write_q(void* row);
  void write_k(void* row, std::int64_t token);
  void write_v(void* row, std::int64_t token);

  enum class Role : std::uint8_t { q, k, v };

 private:
  void write(Role role, void* row);

  Pattern pattern_;
  DType dtype_;
  std::size_t head_dim_;
  unsigned seed_;
  std::uint64_t state_;
  std::array<std::vector<std::byte>, 3> sources_;  // by role; source_length + head_dim_ elements, made when first used
};

}  // namespace trunkline::grids
