// The double-precision oracle: attention straight from block tables. Short, obvious, slow; shares no code with the
// forest, the planner or the kernels. Public, so that users can hold their own integration against it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "trunkline/forest.hpp"
#include "trunkline/kv_view.hpp"
#include "trunkline/tensor.hpp"

namespace trunkline {

/// The result in double precision, and how far a good evaluation may be from it.
///
/// A bound is max(2 * E, 2 ulp): E is the error of a naive evaluation in the precision at hand, and the ulp is that of
/// the format the result is stored in, at the value (and never below an ulp of the format's smallest normal number).
/// The naive evaluation takes the inputs in their dtypes, plain f32 dot products, an f32 softmax in two passes, its
/// weights rounded to the KV dtype, f32 sums, and rounds once to q's dtype.
///   E of out is one number per row, the largest error of its elements. An evaluation can also be right by luck, above
///   all where few tokens carry the row and all its elements share their errors. So E is at least 2.5 standard
///   deviations of the naive evaluation's error: first-order propagation of its roundings, sums taken in any order.
///   E of lse likewise. Its ulp is taken at max(|lse|, |largest score|), as lse is that score plus a logarithm.
/// A row that sees no token is exactly out = 0, lse = -inf, and has bounds of 0.
struct ReferenceResult {
  std::vector<double> out;        // [num_rows, head_dim]
  std::vector<double> lse;        // [num_rows], natural logarithm
  std::vector<double> bound;      // [num_rows, head_dim], for out in q's dtype
  std::vector<double> lse_bound;  // [num_rows], for lse in f32
};

/// One (query token, query head).
struct ReferenceRow {
  std::int32_t token = 0;  // row of q
  std::int32_t head = 0;
};

/// Attention of chosen rows, in the order given; an empty list means all, token-major. CPU memory only.
///   q         [>= sum(qo_lens), num_qo_heads, head_dim], float32, float16 or bfloat16, contiguous head_dim;
///             rows beyond sum(qo_lens) are not read
///   kv        any strides; its heads divide q's; only pages in [0, kv.num_pages) may be named
///   seq_lens  [num_requests], >= 0; qo_lens likewise, or empty for 1 each
///   scale     multiplies q.k; finite
/// Query token j of request r sits at position seq_len - qo_len + j and sees the positions up to its own; before
/// position 0 it sees nothing. Throws invalid_argument, or unsupported for a dtype that is not built yet.
ReferenceResult reference_attention(const TensorView& q, const KvView& kv, const BlockTables& tables,
                                    std::span<const std::int32_t> seq_lens, std::span<const std::int32_t> qo_lens,
                                    double scale, std::span<const ReferenceRow> rows = {});

}  // namespace trunkline
