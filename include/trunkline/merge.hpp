// Exact combination of attention results over disjoint sets of tokens.
#pragma once

#include "trunkline/tensor.hpp"

namespace trunkline {

/// out[i, h, :] and lse[i, h] become the attention over the union of the tokens of a and b.
///   out_a, out_b, out  [n, num_heads, head_dim], one dtype (float32, float16, bfloat16), contiguous head_dim, strided
///   lse_a, lse_b, lse  f32 [n, num_heads], strided, natural logarithm; -inf: no token (then its out is not read into
///                      the result); where neither side has a token, out = 0 and lse = -inf
/// out and lse may each be the very view of a or of b, else must not overlap any other array; out must not overlap
/// itself. lse may be empty (not wanted). CPU memory. Arithmetic is f32 whatever the dtype, rounded once, to nearest
/// even. Source: the log-sum-exp merge of partial softmax results (online softmax, Milakov and Gimelshein 2018).
/// Throws invalid_argument, or unsupported for a dtype that is not built yet, before anything is written.
void merge_states(const TensorView& out_a, const TensorView& lse_a, const TensorView& out_b, const TensorView& lse_b,
                  const TensorView& out, const TensorView& lse);

}  // namespace trunkline
