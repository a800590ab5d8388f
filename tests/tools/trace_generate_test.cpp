#include "trace/generate.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <set>
#include <sstream>
#include <vector>

#include "tools/trace_files.hpp"
#include "trace/read.hpp"
#include "trunkline/error.hpp"

namespace trunkline::trace {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string text_of(const GenerateOptions& options) {
  std::ostringstream out;
  generate(options, out);
  return out.str();
}

Trace read_back(const GenerateOptions& options) {
  const test::TemporaryFolder folder;
  return read_trace(folder.write("t.jsonl", text_of(options)));
}

std::vector<std::int32_t> prompt_of(const Trace& trace, const Request& request) {
  std::vector<std::int32_t> tokens;
  trace.tokens_of(request, 0, tokens);
  return tokens;
}

std::size_t num_distinct(const std::vector<std::vector<std::int32_t>>& prompts, std::size_t length) {
  std::set<std::vector<std::int32_t>> beginnings;
  for (const auto& prompt : prompts) beginnings.emplace(prompt.begin(), prompt.begin() + static_cast<long>(length));
  return beginnings.size();
}

TEST(Generate, ReadsBackWithTheLengthsAskedFor) {
  EXPECT_TRUE(rc::check([] {
    GenerateOptions options;
    options.num_groups = *rc::gen::inRange(1, 6);
    options.num_prefixes = *rc::gen::inRange<std::int64_t>(1, options.num_groups + 1);
    options.prompts_per_group = *rc::gen::inRange(1, 5);
    options.prefix_len = *rc::gen::inRange(0, 1500);
    options.system_prompt_len = *rc::gen::inRange(0, 1500);
    options.question_len = *rc::gen::inRange(1, 700);
    options.output_len = *rc::gen::inRange(1, 50);
    options.seed = *rc::gen::arbitrary<std::uint64_t>();
    const Trace trace = read_back(options);
    const std::int64_t shared = options.prefix_len + options.system_prompt_len;
    RC_ASSERT(static_cast<std::int64_t>(trace.requests.size()) == options.num_groups * options.prompts_per_group);
    std::vector<std::vector<std::int32_t>> prompts;
    for (const Request& request : trace.requests) {
      RC_ASSERT(request.prompt_length == shared + options.question_len);
      RC_ASSERT(request.output_length == options.output_len);
      prompts.push_back(prompt_of(trace, request));
    }
    const auto count = [&](std::int64_t length) {
      return static_cast<std::int64_t>(num_distinct(prompts, static_cast<std::size_t>(length)));
    };
    // Sharing begins and ends where it was asked for, to the token.
    if (options.prefix_len > 0) RC_ASSERT(count(1) == options.num_prefixes);
    RC_ASSERT(count(options.prefix_len) == (options.prefix_len > 0 ? options.num_prefixes : 1));
    if (options.system_prompt_len > 0) RC_ASSERT(count(options.prefix_len + 1) == options.num_groups);
    if (options.system_prompt_len > 0) RC_ASSERT(count(shared) == options.num_groups);
    RC_ASSERT(count(shared + 1) == static_cast<std::int64_t>(prompts.size()));
  }));
}

TEST(Generate, SameSeedSameBytes) {
  GenerateOptions options;
  options.range_ratio = 0.5;
  const std::string text = text_of(options);
  EXPECT_EQ(text_of(options), text);
  ++options.seed;
  EXPECT_NE(text_of(options), text);
}

TEST(Generate, BytesAreTheSameOnEveryMachine) {
  GenerateOptions options;
  options.num_groups = 2;
  options.prompts_per_group = 1;
  options.system_prompt_len = 512;
  options.question_len = 100;
  options.output_len = 10;
  options.range_ratio = 0.5;
  options.seed = 1;
  EXPECT_EQ(text_of(options),
            R"({"timestamp": 0, "input_length": 637, "output_length": 15, "hash_ids": [0, 2]}
{"timestamp": 37, "input_length": 606, "output_length": 13, "hash_ids": [1, 3]}
)");
}

TEST(Generate, BlockSizeIsWrittenOnlyWhereItIsNot512) {
  GenerateOptions options;
  options.system_prompt_len = 1024;
  EXPECT_EQ(options.block_size(), 512);
  EXPECT_THAT(text_of(options), Not(HasSubstr("block_size")));
  options.prefix_len = 96;
  EXPECT_EQ(options.block_size(), 32);
  EXPECT_THAT(text_of(options), HasSubstr("\"block_size\": 32}"));
  options.prefix_len = 1021;  // a prime
  EXPECT_EQ(options.block_size(), 1);
  options.prefix_len = options.system_prompt_len = 0;
  EXPECT_EQ(options.block_size(), 512);
}

TEST(Generate, RatesAndRangesHaveTheirMeans) {
  GenerateOptions options;
  options.num_groups = 100;
  options.prompts_per_group = 100;
  options.system_prompt_len = 0;
  options.question_len = 200;
  options.output_len = 60;
  options.range_ratio = 0.5;
  options.request_rate = 20;
  const Trace trace = read_back(options);
  ASSERT_EQ(trace.requests.size(), 10'000u);
  // Ten thousand draws: the standard error of the mean arrival interval is 1 % of it, of a uniform length 0.3 %.
  EXPECT_NEAR(trace.requests.back().arrival, 10'000 / 20.0, 0.05 * 500);
  EXPECT_NEAR(static_cast<double>(trace.num_prompt_tokens()) / 1e4, 200, 0.02 * 200);
  EXPECT_NEAR(static_cast<double>(trace.num_output_tokens()) / 1e4, 60, 0.02 * 60);
  const auto [least, most] =
      std::minmax_element(trace.requests.begin(), trace.requests.end(),
                          [](const Request& a, const Request& b) { return a.prompt_length < b.prompt_length; });
  EXPECT_EQ(least->prompt_length, 100);
  EXPECT_EQ(most->prompt_length, 300);
}

TEST(Generate, ZeroRateMeansAllAtOnce) {
  GenerateOptions options;
  options.request_rate = 0;
  EXPECT_EQ(read_back(options).requests.back().arrival, 0);
}

TEST(Generate, GroupsAreMixed) {
  const Trace trace = read_back({});
  std::set<std::int32_t> groups;
  for (std::size_t i = 0; i < 32; ++i) groups.insert(trace.prompt(trace.requests[i]).front().first);
  EXPECT_GT(groups.size(), 4u) << "of 8 groups in the first 32 requests of 128";
}

TEST(Generate, BadOptionsAreNamed) {
  const auto expect_refused = [](auto set, const std::string& name) {
    GenerateOptions options;
    set(options);
    std::ostringstream out;
    try {
      generate(options, out);
      FAIL() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
      EXPECT_EQ(error.argument(), name);
    }
    EXPECT_EQ(out.str(), "");
  };
  expect_refused([](auto& options) { options.num_groups = 0; }, "num_groups");
  expect_refused([](auto& options) { options.prompts_per_group = 10'000'000; }, "prompts_per_group");
  expect_refused([](auto& options) { options.system_prompt_len = -1; }, "system_prompt_len");
  expect_refused([](auto& options) { options.question_len = 0; }, "question_len");
  expect_refused([](auto& options) { options.output_len = 0; }, "output_len");
  expect_refused([](auto& options) { options.prefix_len = -1; }, "prefix_len");
  expect_refused([](auto& options) { options.num_prefixes = options.num_groups + 1; }, "num_prefixes");
  expect_refused([](auto& options) { options.range_ratio = 1.5; }, "range_ratio");
  expect_refused([](auto& options) { options.request_rate = -1; }, "request_rate");
}

}  // namespace
}  // namespace trunkline::trace
