// What an attention computes, and on what: the two inputs that planning and kernels share.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "trunkline/tensor.hpp"

namespace trunkline {

/// How the planner uses the sharing of a forest. The named methods run on the same kernels as `automatic`.
enum class Strategy : std::uint8_t {
  automatic,  // "auto": per node, whatever the cost model finds faster
  unshared,   // plain flash-decode over block tables: one item per request
  two_phase,  // ChunkAttention: first the shared nodes, then, after a barrier, each sequence's own tokens
  hydragen,   // one level of the forest at a time, a barrier between levels, merged at the end
};
/// "auto", "unshared", "two_phase", "hydragen".
const char* to_string(Strategy strategy) noexcept;
/// The inverse. Throws invalid_argument.
Strategy strategy_from_string(const std::string& name);

/// Immutable facts of an attention layer. Features that no backend has yet have a field so that asking for them is
/// refused by name, never ignored.
struct AttentionConfig {
  int num_qo_heads = 0;
  int num_kv_heads = 0;             // divides num_qo_heads
  int head_dim = 0;                 // 1 to 256
  int page_size = 0;                // tokens, 1 to 1024
  DType q_dtype = DType::bfloat16;  // of q and out
  DType kv_dtype = DType::bfloat16;
  std::optional<float> sm_scale{};  // factor of q.k; default 1 / sqrt(head_dim); finite
  Strategy strategy = Strategy::automatic;

  // Not built yet; anything but these defaults throws unsupported.
  int head_dim_vo = 0;           // 0: head_dim (MLA)
  int sliding_window = 0;        // 0: none
  float logits_soft_cap = 0.0f;  // 0: none
  bool alibi = false;
  bool attention_sinks = false;

  int group_size() const noexcept { return num_kv_heads > 0 ? num_qo_heads / num_kv_heads : 0; }
  float scale() const noexcept;
  /// Bytes of K and V of one token over all KV heads.
  std::int64_t kv_bytes_per_token() const noexcept;
  /// Throws invalid_argument or unsupported, naming the field.
  void validate() const;
};

/// The device facts that planning needs. Measured once per machine by `calibrate`; defaults are shipped per device.
/// Bandwidths in bytes per second, rates in floating-point operations per second, times in seconds.
struct DeviceSpec {
  /// One list of items that a worker advances independently of its other lane.
  struct Lane {
    int max_rows = 0;           // rows of one item at most; 0: the device has no such lane
    int row_granule = 1;        // rows are computed in multiples of this many
    double flops = 0;           // all workers together, on full granules
    double item_seconds = 0;    // fixed cost of one (item, KV head)
    double masked_seconds = 0;  // more, of one with rows that do not see all its tokens (causal masks)
  };

  std::string name;
  int num_workers = 1;           // cores or SMs that take items
  int token_granule = 1;         // no item is split finer, and none takes less time than so many tokens
  int packed_rows = 1;           // KV heads of a short narrow item are taken at once, as many as have so few rows
  int packed_tokens = 0;         // the longest of such items
  Lane wide;                     // many rows per item, bound by arithmetic
  Lane narrow;                   // few rows per item, bound by bytes
  double paired_flops = 0;       // of the wide lane where workers 2i and 2i + 1 share the tokens of an item of up to
                                 // 2 * wide.max_rows rows, half of the rows each; 0: they cannot
  bool lanes_overlap = false;    // a worker advances both lanes at once (GPU), or one item at a time (CPU)
  double overlap_penalty = 0;    // when both lanes are busy, the longer one takes this much longer (0.2 = 20 %)
  double read_bandwidth = 1;     // KV reads, all workers together
  double worker_bandwidth = 1;   // KV reads, one worker alone
  double partial_bandwidth = 1;  // partials written and read back, all workers together (from cache)
  double cache_bytes = 0;        // last-level cache
  double merge_seconds = 0;      // fixed cost of one (merge, KV head)
  double source_seconds = 0;     // per source of the row with most: they are added one after the other
  double phase_seconds = 0;      // one barrier between phases
  double launch_seconds = 0;     // fixed cost of one run

  /// One NVIDIA H200 (132 SMs, two lanes), from measurements on such cards until 2026-11-24.
  static DeviceSpec h200();
  /// A middling x86-64 or Arm64 server core, times `num_workers`. Use `calibrate` for a real machine.
  static DeviceSpec generic_cpu(int num_workers);
  /// Throws invalid_argument, naming the field.
  void validate() const;
};

/// Sizes that an Attention, its grid and its workspace are made for. Every forest within it can be planned and run.
struct Capacity {
  int max_requests = 0;
  int max_query_tokens = 0;  // sum of qo_lens
  int max_table_width = 0;   // pages of one request

  void validate() const;
};

}  // namespace trunkline
