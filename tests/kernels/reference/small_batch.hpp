// A batch of the reference's tests: two pages' worth of memory per request, everything that is not written is NaN.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/reference/formats.hpp"
#include "trunkline/reference.hpp"

namespace trunkline {

/// K, V (interleaved NHD) and q in one dtype, block tables of max_pages pages per request, all in the caller's hands.
struct SmallBatch {
  SmallBatch(DType dtype_, int num_pages_, int page_size_, int num_qo_heads_, int num_kv_heads_, int head_dim_,
             int num_query_tokens)
      : dtype(dtype_),
        num_pages(num_pages_),
        page_size(page_size_),
        num_qo_heads(num_qo_heads_),
        num_kv_heads(num_kv_heads_),
        head_dim(head_dim_) {
    kv_memory = poisoned(std::int64_t{num_pages} * 2 * page_size * num_kv_heads * head_dim);
    q_memory = poisoned(std::int64_t{num_query_tokens} * num_qo_heads * head_dim);
    kv = KvView::interleaved(kv_memory.data(), dtype, KvLayout::nhd, num_pages, page_size, num_kv_heads, head_dim);
    q = contiguous(q_memory.data(), dtype, {num_query_tokens, num_qo_heads, head_dim, 0}, 3);
  }

  std::vector<std::byte> poisoned(std::int64_t elements) const {
    std::vector<std::byte> memory(static_cast<std::size_t>(elements) * size_of(dtype));
    for (std::int64_t i = 0; i < elements; ++i) {
      reference::store(dtype, memory.data(), i, std::numeric_limits<float>::quiet_NaN());
    }
    return memory;
  }

  void set_token(int page, int slot, int head, const std::vector<float>& k, const std::vector<float>& v) {
    for (int i = 0; i < head_dim; ++i) {
      const auto at = [&](const KvView::Plane& plane) {
        return page * plane.page_stride + slot * plane.token_stride + head * plane.head_stride + i;
      };
      reference::store(dtype, kv.k.data, at(kv.k), k[static_cast<std::size_t>(i)]);
      reference::store(dtype, kv.v.data, at(kv.v), v[static_cast<std::size_t>(i)]);
    }
  }

  void set_q(int token, int head, const std::vector<float>& values) {
    for (int i = 0; i < head_dim; ++i) {
      reference::store(dtype, q.data, token * q.strides[0] + head * q.strides[1] + i,
                       values[static_cast<std::size_t>(i)]);
    }
  }

  ReferenceResult attention(const BlockTables& tables, double scale = 1.0, std::vector<ReferenceRow> rows = {}) const {
    return reference_attention(q, kv, tables, seq_lens, qo_lens, scale, rows);
  }

  DType dtype;
  int num_pages, page_size, num_qo_heads, num_kv_heads, head_dim;
  std::vector<std::byte> kv_memory, q_memory;
  KvView kv;
  TensorView q;
  std::vector<std::int32_t> seq_lens, qo_lens;
};

}  // namespace trunkline
