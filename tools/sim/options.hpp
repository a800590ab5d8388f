// What a simulation is told, and what it tells.
#pragma once

#include <cstdint>

namespace trunkline::sim {

/// The rules of the simulated engine.
///
/// Requests are admitted first come, first served, while the batch has room and every running request could still get a
/// page afterwards. Branches of a tree of thought go before what waits: they continue work that was admitted. Prefill
/// happens at admission, one request after the other, and holds up decoding; only tokens that are not cached take time,
/// but at least the last one, whose logits are needed. Then every running request decodes a token per step. When the
/// pool is full, the newest request is preempted: it goes back to the head of the queue and starts again with the
/// tokens it had, of which the cache may still hold a part.
struct Options {
  int page_size = 16;
  std::int32_t num_pages = 65536;
  int max_batch = 64;             // requests that decode together
  int concurrency = 0;            // > 0: a closed loop of so many requests (or trees); 0: by time stamps
  double time_scale = 1;          // factor of the time stamps: 0.5 is twice the load, 0 all at once
  double prefill_rate = 50'000;   // tokens/s
  double decode_step = 0.020;     // seconds
  std::int64_t max_steps = 0;     // decode steps; 0: to the end of the trace
  std::int64_t verify_every = 0;  // steps between proofs of the tree and the forest; 0: none

  /// Throws invalid_argument, naming the option of `replay`.
  void validate() const;
};

/// One decode step.
struct Step {
  double time = 0;  // simulated seconds at its end
  std::int32_t batch = 0;
  std::int32_t waiting = 0;          // requests that have arrived and are not running
  std::int64_t total_tokens = 0;     // summed over requests
  std::int64_t distinct_tokens = 0;  // in KV memory
  std::int64_t pages_used = 0;       // held by running requests
  std::int64_t pages_cached = 0;     // held by the cache alone
  std::int64_t pages_free = 0;

  double share() const {
    return distinct_tokens > 0 ? static_cast<double>(total_tokens) / static_cast<double>(distinct_tokens) : 1.0;
  }
};

/// Counts since the beginning.
struct Totals {
  std::int64_t steps = 0;
  std::int64_t finished = 0;          // requests
  std::int64_t prompt_tokens = 0;     // of first admissions; a branch that forks has none
  std::int64_t cached_tokens = 0;     // of these, found in the cache
  std::int64_t prefilled_tokens = 0;  // computed, those of restarted requests included
  std::int64_t output_tokens = 0;
  std::int64_t preemptions = 0;
  std::int64_t forks = 0;
  std::int64_t page_copies = 0;
  std::int64_t evicted_pages = 0;
  std::int64_t verified_steps = 0;

  double hit_rate() const {
    return prompt_tokens > 0 ? static_cast<double>(cached_tokens) / static_cast<double>(prompt_tokens) : 0.0;
  }
};

}  // namespace trunkline::sim
