#include "trace/generate.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "common/random.hpp"
#include "trace/mooncake.hpp"
#include "trunkline/error.hpp"

namespace trunkline::trace {
namespace {

constexpr std::int64_t most_tokens = std::numeric_limits<std::int32_t>::max();

// The standard's distributions differ between machines; these draws do not.

std::int64_t around(tools::Random& random, std::int64_t length, double ratio) {
  const auto spread = static_cast<std::int64_t>(static_cast<double>(length) * ratio);
  const auto offset = static_cast<std::int64_t>(random.below(2 * static_cast<std::uint64_t>(spread) + 1));
  return std::max<std::int64_t>(1, length - spread + offset);
}

double exponential(tools::Random& random, double rate) { return -std::log1p(-random.uniform()) / rate; }

void check_range(const char* name, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value < least || value > most) {
    throw Error(ErrorCode::invalid_argument, name,
                "an integer from " + std::to_string(least) + " to " + std::to_string(most), std::to_string(value));
  }
}

void check_range(const char* name, double value, double least, double most) {
  if (!(value >= least && value <= most)) {
    throw Error(ErrorCode::invalid_argument, name,
                "a number from " + std::to_string(least) + " to " + std::to_string(most), std::to_string(value));
  }
}

}  // namespace

void GenerateOptions::validate() const {
  constexpr std::int64_t most_requests = 10'000'000;
  check_range("num_groups", num_groups, 1, most_requests);
  check_range("prompts_per_group", prompts_per_group, 1, most_requests / num_groups);
  check_range("system_prompt_len", system_prompt_len, 0, most_tokens / 4);
  check_range("question_len", question_len, 1, most_tokens / 4);
  check_range("output_len", output_len, 1, most_tokens / 4);
  check_range("prefix_len", prefix_len, 0, most_tokens / 4);
  check_range("num_prefixes", num_prefixes, 1, num_groups);
  check_range("range_ratio", range_ratio, 0.0, 1.0);
  check_range("request_rate", request_rate, 0.0, 1e6);
}

std::int64_t GenerateOptions::block_size() const {
  const std::int64_t common = std::gcd(prefix_len, system_prompt_len);
  std::int64_t size = default_block_size;
  while (common % size != 0) --size;  // 0, nothing shared, is a multiple of everything
  return size;
}

void generate(const GenerateOptions& options, std::ostream& out) {
  options.validate();
  tools::Random random(options.seed);
  std::vector<std::int64_t> groups;  // of each request, in order of arrival
  for (std::int64_t group = 0; group < options.num_groups; ++group) {
    groups.insert(groups.end(), static_cast<std::size_t>(options.prompts_per_group), group);
  }
  for (std::size_t i = groups.size(); i > 1; --i) {
    std::swap(groups[i - 1], groups[random.below(i)]);
  }

  const std::int64_t block_size = options.block_size();
  const std::int64_t prefix_blocks = options.prefix_len / block_size;
  const std::int64_t system_blocks = options.system_prompt_len / block_size;
  const std::int64_t first_system = options.num_prefixes * prefix_blocks;
  std::int64_t next_block = first_system + options.num_groups * system_blocks;
  const std::string size_field =
      block_size == default_block_size ? "" : ", \"block_size\": " + std::to_string(block_size);

  double now = 0;  // seconds
  std::string ids;
  const auto add_ids = [&ids](std::int64_t first, std::int64_t count) {
    for (std::int64_t id = first; id < first + count; ++id) ids += (ids.empty() ? "" : ", ") + std::to_string(id);
  };
  for (const std::int64_t group : groups) {
    const std::int64_t question = around(random, options.question_len, options.range_ratio);
    const std::int64_t output = around(random, options.output_len, options.range_ratio);
    const std::int64_t question_blocks = (question + block_size - 1) / block_size;
    ids.clear();
    add_ids(group % options.num_prefixes * prefix_blocks, prefix_blocks);
    add_ids(first_system + group * system_blocks, system_blocks);
    add_ids(next_block, question_blocks);
    next_block += question_blocks;
    out << "{\"timestamp\": " << std::llround(now * 1e3)
        << ", \"input_length\": " << options.prefix_len + options.system_prompt_len + question
        << ", \"output_length\": " << output << ", \"hash_ids\": [" << ids << "]" << size_field << "}\n";
    if (options.request_rate > 0) now += exponential(random, options.request_rate);
  }
}

}  // namespace trunkline::trace
