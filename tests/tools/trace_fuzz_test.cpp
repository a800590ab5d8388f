// Damaged traces: a reader gives a valid trace or an Error that names the file, never anything else. By hand, for
// longer:
//   test_tools_trace_fuzz --runs 1000000 --seed 7
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <string>

#include "common/random.hpp"
#include "tools/trace_files.hpp"
#include "trace/read.hpp"
#include "trunkline/error.hpp"

namespace trunkline::trace {
namespace {

std::int64_t num_runs = 1000;
std::uint64_t seed = 1;

const std::string mooncake =
    R"({"timestamp": 5, "input_length": 600, "output_length": 2, "hash_ids": [0, 1]}
{"timestamp": 27.5, "input_length": 9, "output_length": 3, "hash_ids": [0, 1, 7], "block_size": 4}
)";
const std::string ragpulse =
    R"({"timestamp": "93", "input_length": 24, "output_length": 7, "hash_ids": {"sys_prompt": [5], "passages_ids": [6, 5]}}
{"timestamp": "82", "input_length": 19, "output_length": 7, "hash_ids": {"sys_prompt": [5], "passages_ids": []}, "session_id": "a"}

)";
const std::string table = "{\"passage_id\": 5, \"token_length\": 3}\n{\"passage_id\": 6, \"token_length\": 4}\n";
const std::string tree_of_thought =
    R"({"incomplete":false,"nodes":[{"id":0,"parent":-1,"tokens":3,"start":-2,"end":0},{"id":1,"parent":0,"tokens":2,"start":1,"end":2},{"id":2,"parent":1,"tokens":0,"start":3,"end":2}]}
{"incomplete":true,"nodes":[{"id":4,"parent":-1,"tokens":1,"start":0,"end":0}]}
)";

std::size_t below(tools::Random& random, std::size_t n) { return static_cast<std::size_t>(random.below(n)); }

std::string mutate(std::string text, tools::Random& random) {
  static constexpr std::array tokens = {"-1",    "0",    "2147483647", "2147483648", "9223372036854775807",
                                        "1e308", "1e-9", "null",       "\"\"",       "[]",
                                        "{}",    "[[",   "\n",         ",",          "\xff\xfe",
                                        "\\u",   "\"a",  "512",        "1048576",    "true"};
  for (std::size_t edits = 1 + below(random, 3); edits > 0; --edits) {
    const std::size_t at = below(random, text.size() + 1);
    const std::size_t length = below(random, std::min<std::size_t>(text.size() - at, 40) + 1);
    switch (random.below(7)) {
      case 0:
        text.resize(at);
        break;
      case 1:
        text.erase(at, length);
        break;
      case 2:
        text.insert(at, text.substr(at, length));
        break;
      case 3:
        text.insert(at, 1, static_cast<char>(random.below(256)));
        break;
      case 4:
        if (at < text.size()) text[at] = static_cast<char>(random.below(256));
        break;
      default: {  // a number becomes something else
        const std::size_t begin = text.find_first_of("0123456789", at);
        if (begin == std::string::npos) break;
        const std::size_t end = std::min(text.find_first_not_of("0123456789", begin), text.size());
        text.replace(begin, end - begin, tokens[below(random, tokens.size())]);
      }
    }
  }
  return text;
}

void expect_valid(const Trace& trace) {
  double last = 0;
  std::int32_t index = 0;
  ASSERT_FALSE(trace.requests.empty());
  for (const Request& request : trace.requests) {
    ASSERT_GE(request.arrival, last);
    last = request.arrival;
    ASSERT_GE(request.line, 1);
    ASSERT_LT(request.parent, index++);
    ASSERT_GE(request.parent, -1);
    ASSERT_GE(request.output_length, 0);
    ASSERT_GE(request.first_output, 0);
    std::int64_t tokens = 0;
    for (const TokenRun run : trace.prompt(request)) {
      ASSERT_GE(run.first, 0);
      ASSERT_GT(run.count, 0);
      ASSERT_LE(std::int64_t{run.first} + run.count, std::int64_t{1} << 31);
      tokens += run.count;
    }
    ASSERT_EQ(tokens, request.prompt_length);
    ASSERT_GT(tokens, 0);
  }
}

/// Reads the damaged trace; returns whether it was still one.
bool read_damaged(const std::filesystem::path& path, Format format, const std::string& text) {
  SCOPED_TRACE(text);
  try {
    expect_valid(read_trace(path, format));
    return true;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
    EXPECT_NE(error.argument().find(".jsonl"), std::string::npos) << error.what();
    return false;
  }
}

class TraceFuzz : public testing::Test {
 protected:
  /// Both outcomes must happen, or the test would not test.
  void expect_both(std::int64_t valid) const {
    if (HasFatalFailure() || num_runs < 1000) return;
    EXPECT_GT(valid, 0);
    EXPECT_LT(valid, num_runs);
  }
  test::TemporaryFolder folder;
  tools::Random random{seed};
};

TEST_F(TraceFuzz, Mooncake) {
  std::int64_t valid = 0;
  for (std::int64_t run = 0; run < num_runs && !HasFailure(); ++run) {
    const std::string text = mutate(mooncake, random);
    valid += read_damaged(folder.write("t.jsonl", text), Format::mooncake, text);
  }
  expect_both(valid);
}

TEST_F(TraceFuzz, TreeOfThought) {
  std::int64_t valid = 0;
  for (std::int64_t run = 0; run < num_runs && !HasFailure(); ++run) {
    const std::string text = mutate(tree_of_thought, random);
    valid += read_damaged(folder.write("t.jsonl", text), Format::tree_of_thought, text);
  }
  expect_both(valid);
}

TEST_F(TraceFuzz, RagPulse) {
  folder.write("1_sys_prompt.jsonl", "{\"sys_prompt_id\": 5, \"token_length\": 10}\n");
  std::int64_t valid = 0;
  for (std::int64_t run = 0; run < num_runs && !HasFailure(); ++run) {
    const bool damage_table = random.below(3) == 0;
    const std::string passages = damage_table ? mutate(table, random) : table;
    const std::string text = damage_table ? ragpulse : mutate(ragpulse, random);
    folder.write("2_passages.jsonl", passages);
    folder.write("0_trace.jsonl", text);
    valid += read_damaged(folder.path() / "0_trace.jsonl", Format::ragpulse, passages + text);
  }
  expect_both(valid);
}

}  // namespace
}  // namespace trunkline::trace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i + 1 < argc; i += 2) {
    if (!std::strcmp(argv[i], "--runs")) trunkline::trace::num_runs = std::atoll(argv[i + 1]);
    if (!std::strcmp(argv[i], "--seed")) trunkline::trace::seed = static_cast<std::uint64_t>(std::atoll(argv[i + 1]));
  }
  return RUN_ALL_TESTS();
}
