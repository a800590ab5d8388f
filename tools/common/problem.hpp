// The memory of one attention over a batch: random q and KV, poisoned results.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "common/accuracy.hpp"
#include "common/options.hpp"
#include "common/random.hpp"
#include "trunkline/attention.hpp"

namespace trunkline::tools {

struct ProblemShape {
  Heads heads;
  int head_dim = 128;
  int page_size = 16;
  DType dtype = DType::bfloat16;
  KvLayout layout = KvLayout::nhd;
  Pattern pattern = Pattern::normal;
  std::optional<float> sm_scale = std::nullopt;  // default: 1 / sqrt(head_dim)
};

/// "nhd", "hnd". Throws invalid_argument.
KvLayout kv_layout_from_string(const std::string& name);

/// What the shape asks of an Attention.
AttentionConfig config_of(const ProblemShape& shape, Strategy strategy);

class Problem {
 public:
  Problem(const ProblemShape& shape, std::int64_t num_query_tokens, std::int64_t num_pages, std::uint64_t seed);

  /// Makes NaN of the slots of each page from page_tokens[page] on, which no result may read.
  void poison_unused_slots(std::span<const std::int32_t> page_tokens);
  /// Makes NaN of out and lse, so that what a kernel leaves unwritten shows.
  void poison_results();
  AttentionConfig config(Strategy strategy) const { return config_of(shape, strategy); }
  /// Everything `compare_with_reference` needs.
  Computed computed(const BlockTables& tables, std::span<const std::int32_t> seq_lens,
                    std::span<const std::int32_t> qo_lens) const;
  /// Bytes of K and V of one page, all heads.
  static std::int64_t page_bytes(const ProblemShape& shape);

  ProblemShape shape;
  RandomKv kv;
  TensorView q, out, lse;

 private:
  Buffer q_memory_, out_memory_, lse_memory_;
};

}  // namespace trunkline::tools
