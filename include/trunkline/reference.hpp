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

struct ReferenceResult {
  std::vector<double> out;  // [num_rows, head_dim]
  std::vector<double> lse;  // [num_rows], natural logarithm
  /// The error that a result of `q`'s dtype may have in each element of out against this one:
  /// max(2 * |naive - out|_max over the row, 2 ulp of the dtype at |out|), where naive is a plain evaluation with inputs
  /// and softmax weights in the dtypes at hand and f32 accumulation.
  std::vector<double> bound;  // [num_rows, head_dim]
  std::vector<double> lse_bound;  // [num_rows]
};

/// One (query token, query head).
struct ReferenceRow {
  std::int32_t token = 0;  // row of q
  std::int32_t head = 0;
};

/// Attention of chosen rows; an empty list means all, token-major. CPU memory only. q is
/// [sum(qo_lens), num_qo_heads, head_dim]; query token j of request r sits at position seq_len - qo_len + j and sees
/// the positions up to its own. scale multiplies q.k. Throws invalid_argument.
ReferenceResult reference_attention(const TensorView& q, const KvView& kv, const BlockTables& tables,
                                    std::span<const std::int32_t> seq_lens, std::span<const std::int32_t> qo_lens,
                                    double scale, std::span<const ReferenceRow> rows = {});

}  // namespace trunkline
