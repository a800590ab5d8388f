// Shared-prefix workloads in Mooncake's format.
#pragma once

#include <cstdint>
#include <iosfwd>

namespace trunkline::trace {

/// A prompt is a prefix, the system prompt of its group and a question of its own. Groups take the prefixes in turn, so
/// that there are up to two levels of sharing. Lengths are in tokens. Names are those of the field's generators.
struct GenerateOptions {
  std::int64_t num_groups = 8;
  std::int64_t prompts_per_group = 16;
  std::int64_t system_prompt_len = 1024;
  std::int64_t question_len = 128;
  std::int64_t output_len = 64;
  std::int64_t prefix_len = 0;
  std::int64_t num_prefixes = 1;  // at most num_groups
  double range_ratio = 0;         // question and output lengths are uniform in [len * (1 - ratio), len * (1 + ratio)]
  double request_rate = 16;       // requests per second, a Poisson process; 0: all arrive at once
  std::uint64_t seed = 0;

  /// Throws invalid_argument, naming the option.
  void validate() const;
  /// Tokens of a block: the largest size up to 512 at which both shared lengths are whole blocks, so that the trace
  /// reads back with exactly the lengths asked for. It is written on every line unless it is 512.
  std::int64_t block_size() const;
};

/// Writes the trace, requests shuffled and by arrival. The same options give the same bytes on every machine. Throws
/// invalid_argument before anything is written.
void generate(const GenerateOptions& options, std::ostream& out);

}  // namespace trunkline::trace
