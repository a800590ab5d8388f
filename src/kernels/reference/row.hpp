// One row of attention, twice: in double precision, and as a plain evaluation in the precision at hand.
#pragma once

#include <cstddef>
#include <limits>
#include <vector>

#include "trunkline/tensor.hpp"

namespace trunkline::reference {

/// K and V of one request and KV head, position by position. 16-bit values are exact in f32.
struct Context {
  std::vector<float> k, v;  // [seq_len, head_dim]
};

/// One row's attention in double precision, and the variance of a naive f32 evaluation of it: first order in every
/// rounding, all of them independent.
struct Exact {
  std::vector<double> out, out_variance;  // [head_dim]
  double lse = 0, lse_variance = 0;
  double max_score = -std::numeric_limits<double>::infinity();
};

/// Over the first `visible` > 0 positions.
Exact exact_row(const std::vector<float>& q, const Context& context, std::size_t visible, double scale, DType kv_dtype);

/// The naive evaluation that trunkline/reference.hpp describes.
struct Naive {
  std::vector<double> out;  // numbers of the output dtype
  float lse = 0;
};

Naive naive_row(const std::vector<float>& q, const Context& context, std::size_t visible, float scale, DType kv_dtype,
                DType out_dtype);

}  // namespace trunkline::reference
