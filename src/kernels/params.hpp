// The plain structs that cross to kernels. All pointers are to memory of the device that runs the kernel.
#pragma once

#include <cstdint>

#include "trunkline/work.hpp"  // plain structs, itself only <cstdint>

namespace trunkline::kernels {

enum class Element : std::uint8_t { f32, f16, bf16 };

/// K or V: element (page, slot, head, i) lies at data + page * page_stride + slot * token_stride + head * head_stride +
/// i.
struct KvPlane {
  const void* data;
  std::int64_t page_stride, token_stride, head_stride;  // elements
};

/// A [tokens, heads, head_dim] array of the caller, strided, head_dim contiguous.
struct RowsView {
  void* data;
  std::int64_t token_stride, head_stride;  // elements
};

/// Everything one run reads and writes.
struct AttentionParams {
  // Shapes
  std::int32_t num_kv_heads;
  std::int32_t group_size;  // query heads per KV head
  std::int32_t head_dim;    // 1 to 256
  std::int32_t page_size;   // tokens
  Element q_element;        // of q and out
  Element kv_element;
  float scale;  // factor of q.k, natural base

  // The caller's arrays
  RowsView q, out;  // q is only read
  float* lse;       // [q rows, query heads], natural logarithm; null when not wanted
  std::int64_t lse_token_stride, lse_head_stride;
  KvPlane k, v;
  const std::int32_t* seq_lens;  // [num_requests] or null; at most the planned ones, rows clamp to them

  // The block tables, [table_rows, table_stride]
  const std::int32_t* table;
  std::int64_t table_stride;

  // The plan (trunkline/work.hpp)
  const QueryToken* query_tokens;
  const WorkItem* items;
  const Segment* segments;
  const Merge* merges;
  const std::int32_t* merge_sources;

  // Partials, f32
  float* partial_out;  // [partial rows, num_kv_heads, head_dim], normalised
  float* partial_lse;  // [partial rows, num_kv_heads], natural logarithm
};

}  // namespace trunkline::kernels
