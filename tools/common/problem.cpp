#include "common/problem.hpp"

#include <algorithm>
#include <cstring>

#include "trunkline/error.hpp"

namespace trunkline::tools {

KvLayout kv_layout_from_string(const std::string& name) {
  if (name == "nhd") return KvLayout::nhd;
  if (name == "hnd") return KvLayout::hnd;
  throw Error(ErrorCode::invalid_argument, "kv-layout", "nhd or hnd", "'" + name + "'");
}

Problem::Problem(const ProblemShape& problem_shape, std::int64_t num_query_tokens, std::int64_t num_pages,
                 std::uint64_t seed)
    : shape(problem_shape),
      kv(shape.dtype, shape.layout, std::max<std::int64_t>(num_pages, 1), shape.page_size, shape.heads.kv,
         shape.head_dim, seed, shape.pattern) {
  const auto rows = static_cast<std::size_t>(num_query_tokens * shape.heads.qo);
  const std::size_t elements = rows * static_cast<std::size_t>(shape.head_dim);
  q_memory_ = Buffer(elements * size_of(shape.dtype));
  out_memory_ = Buffer(elements * size_of(shape.dtype));
  lse_memory_ = Buffer(rows * sizeof(float));
  fill_random(q_memory_.data(), shape.dtype, elements, seed + 1, shape.pattern);
  q = contiguous(q_memory_.data(), shape.dtype, {num_query_tokens, shape.heads.qo, shape.head_dim}, 3);
  out = contiguous(out_memory_.data(), shape.dtype, {num_query_tokens, shape.heads.qo, shape.head_dim}, 3);
  lse = contiguous(lse_memory_.data(), DType::float32, {num_query_tokens, shape.heads.qo}, 2);
  poison_results();
}

void Problem::poison_unused_slots(std::span<const std::int32_t> page_tokens) {
  const std::size_t element = size_of(shape.dtype);
  const std::size_t row_bytes = static_cast<std::size_t>(shape.head_dim) * element;
  for (std::size_t page = 0; page < page_tokens.size(); ++page) {
    for (int slot = page_tokens[page]; slot < shape.page_size; ++slot) {
      for (const KvView::Plane& plane : {kv.view.k, kv.view.v}) {
        for (int head = 0; head < shape.heads.kv; ++head) {
          const std::int64_t at = static_cast<std::int64_t>(page) * plane.page_stride + slot * plane.token_stride +
                                  head * plane.head_stride;
          std::memset(static_cast<std::byte*>(plane.data) + static_cast<std::size_t>(at) * element, 0xFF, row_bytes);
        }
      }
    }
  }
}

void Problem::poison_results() {
  out_memory_.poison();
  lse_memory_.poison();
}

AttentionConfig config_of(const ProblemShape& shape, Strategy strategy) {
  AttentionConfig config;
  config.num_qo_heads = shape.heads.qo;
  config.num_kv_heads = shape.heads.kv;
  config.head_dim = shape.head_dim;
  config.page_size = shape.page_size;
  config.q_dtype = config.kv_dtype = shape.dtype;
  config.sm_scale = shape.sm_scale;
  config.strategy = strategy;
  return config;
}

Computed Problem::computed(const BlockTables& tables, std::span<const std::int32_t> seq_lens,
                           std::span<const std::int32_t> qo_lens) const {
  return {q, out, lse, kv.view, tables, seq_lens, qo_lens, config(Strategy::automatic).scale()};
}

std::int64_t Problem::page_bytes(const ProblemShape& shape) {
  return std::int64_t{2} * shape.page_size * shape.heads.kv * shape.head_dim *
         static_cast<std::int64_t>(size_of(shape.dtype));
}

}  // namespace trunkline::tools
