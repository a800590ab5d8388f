// From the public descriptions of memory to those of kernels.
#pragma once

#include "kernels/params.hpp"
#include "trunkline/config.hpp"
#include "trunkline/kv_view.hpp"
#include "trunkline/tensor.hpp"

namespace trunkline::exec {

inline kernels::Element to_element(DType dtype) {
  switch (dtype) {
    case DType::float16:
      return kernels::Element::f16;
    case DType::bfloat16:
      return kernels::Element::bf16;
    case DType::float32:
    case DType::float8_e4m3:  // refused by AttentionConfig::validate
      break;
  }
  return kernels::Element::f32;
}

inline kernels::KvPlane to_plane(const KvView::Plane& plane) {
  return {plane.data, plane.page_stride, plane.token_stride, plane.head_stride};
}

/// Of a [tokens, heads, head_dim] view.
inline kernels::RowsView to_rows(const TensorView& view) { return {view.data, view.strides[0], view.strides[1]}; }

/// Shapes and the caller's arrays; tables, plan and partials are null.
inline kernels::AttentionParams to_params(const AttentionConfig& config, const TensorView& q, const KvView& kv,
                                          const TensorView& out, const TensorView& lse, const std::int32_t* seq_lens) {
  kernels::AttentionParams params{};
  params.num_kv_heads = config.num_kv_heads;
  params.group_size = config.group_size();
  params.head_dim = config.head_dim;
  params.page_size = config.page_size;
  params.q_element = to_element(config.q_dtype);
  params.kv_element = to_element(config.kv_dtype);
  params.scale = config.scale();
  params.q = to_rows(q);
  params.out = to_rows(out);
  params.lse = static_cast<float*>(lse.data);
  params.lse_token_stride = lse.strides[0];
  params.lse_head_stride = lse.strides[1];
  params.k = to_plane(kv.k);
  params.v = to_plane(kv.v);
  params.seq_lens = seq_lens;
  return params;
}

}  // namespace trunkline::exec
