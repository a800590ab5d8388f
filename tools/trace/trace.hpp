// A trace of requests in one form, whatever file it came from.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace trunkline::trace {

enum class Format : std::uint8_t {
  mooncake,         // JSON lines: timestamp (ms), input_length, output_length, hash_ids
  ragpulse,         // a folder: 0_trace.jsonl and numbered tables of token lengths
  tree_of_thought,  // JSON lines: a tree of branches each
};
/// "mooncake", "ragpulse", "tree-of-thought".
const char* to_string(Format format) noexcept;
/// The inverse. Throws invalid_argument.
Format format_from_string(const std::string& name);

/// Consecutive token ids first, first + 1, ..., first + count - 1. Two requests share a token when they have the same
/// id at the same position, so a run stands for a block of text without its tokens being stored.
struct TokenRun {
  std::int32_t first = 0;
  std::int32_t count = 0;
  friend bool operator==(const TokenRun&, const TokenRun&) = default;
};

struct Request {
  double arrival = 0;              // seconds since the first request of the trace
  std::int32_t line = 0;           // line of the trace file it came from, 1-based
  std::int32_t prompt_length = 0;  // tokens, > 0
  std::int32_t output_length = 0;  // tokens it decodes, >= 0
  std::int32_t first_output = 0;   // output token i is first_output + i: its own, unless a branch continues it
  std::int32_t parent = -1;        // earlier request that it forks from when that one ends; -1: it arrives by itself
  std::int64_t run_begin = 0;      // its prompt is runs [run_begin, run_end) of the trace
  std::int64_t run_end = 0;
};

struct Trace {
  std::string path;
  Format format = Format::mooncake;
  std::vector<TokenRun> runs;
  std::vector<Request> requests;  // by arrival, parents before their branches

  std::span<const TokenRun> prompt(const Request& request) const;
  /// Replaces `tokens` by the prompt and the first `num_output` output tokens of the request.
  void tokens_of(const Request& request, std::int32_t num_output, std::vector<std::int32_t>& tokens) const;
  /// "request 17 (line 18 of trace.jsonl)".
  std::string name_of(std::size_t request) const;

  std::int64_t num_prompt_tokens() const;
  std::int64_t num_output_tokens() const;
};

}  // namespace trunkline::trace
