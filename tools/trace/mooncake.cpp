// Mooncake's format: hash ids of chained blocks of 512 tokens. Token i of a prompt is token i % block_size of block
// hash_ids[i / block_size]. Our one addition is the optional field "block_size", for sharing at other lengths.
#include <algorithm>
#include <limits>

#include "trace/builder.hpp"
#include "trace/json_lines.hpp"
#include "trace/mooncake.hpp"

namespace trunkline::trace {
namespace {

constexpr std::int64_t most_tokens = std::numeric_limits<std::int32_t>::max();

void add_request(const JsonLines& lines, TokenIds& ids, Trace& trace) {
  const auto row = lines.object();
  Request request;
  request.line = lines.line();
  request.arrival = lines.time(row, "timestamp", false) * 1e-3;
  const std::int64_t length = lines.integer(row, "input_length", 1, most_tokens);
  request.prompt_length = static_cast<std::int32_t>(length);
  request.output_length = static_cast<std::int32_t>(lines.integer(row, "output_length", 0, most_tokens));
  const std::int64_t block_size =
      lines.has(row, "block_size") ? lines.integer(row, "block_size", 1, max_block_size) : default_block_size;
  const auto blocks = lines.array(row, "hash_ids");

  const std::int64_t num_blocks = (length + block_size - 1) / block_size;
  const auto given = static_cast<std::int64_t>(std::distance(blocks.begin(), blocks.end()));
  if (given != num_blocks) {
    lines.fail("\"hash_ids\": " + std::to_string(num_blocks) + " blocks for " + std::to_string(length) +
                   " tokens in blocks of " + std::to_string(block_size),
               std::to_string(given));
  }
  request.run_begin = static_cast<std::int64_t>(trace.runs.size());
  std::int64_t left = length;
  for (const auto block : blocks) {
    const std::int64_t id =
        lines.integer_value(block, "\"hash_ids\" element", 0, std::numeric_limits<std::int64_t>::max());
    TokenRun run;
    run.count = static_cast<std::int32_t>(std::min(left, block_size));
    if (!ids.shared(static_cast<std::uint32_t>(block_size), id, block_size, run.first)) {
      lines.fail(token_ids_expected, "more");
    }
    left -= run.count;
    trace.runs.push_back(run);
  }
  request.run_end = static_cast<std::int64_t>(trace.runs.size());
  if (!ids.own(request.output_length, request.first_output)) lines.fail(token_ids_expected, "more");
  trace.requests.push_back(request);
}

}  // namespace

Trace read_mooncake(const std::filesystem::path& path, std::size_t max_requests) {
  Trace trace;
  trace.path = path.string();
  trace.format = Format::mooncake;
  TokenIds ids;
  JsonLines lines(path);
  while (lines.next()) add_request(lines, ids, trace);
  finish_by_arrival(trace, max_requests);
  return trace;
}

}  // namespace trunkline::trace
