#include "trace/read.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "tools/trace_files.hpp"
#include "trunkline/error.hpp"

namespace trunkline::trace {
namespace {

using test::TemporaryFolder;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Throws;

std::vector<std::int32_t> prompt_of(const Trace& trace, std::size_t request) {
  std::vector<std::int32_t> tokens;
  trace.tokens_of(trace.requests[request], 0, tokens);
  return tokens;
}

/// Length of the common beginning of two prompts.
std::size_t common(const Trace& trace, std::size_t a, std::size_t b) {
  const auto first = prompt_of(trace, a), second = prompt_of(trace, b);
  const auto [end, other] = std::mismatch(first.begin(), first.end(), second.begin(), second.end());
  return static_cast<std::size_t>(end - first.begin());
}

testing::Matcher<const Error&> says(const std::string& argument, const std::string& expected, const std::string& got) {
  return testing::AllOf(testing::Property("code", &Error::code, ErrorCode::invalid_argument),
                        testing::Property("argument", &Error::argument, testing::EndsWith(argument)),
                        testing::Property("expected", &Error::expected, HasSubstr(expected)),
                        testing::Property("got", &Error::got, HasSubstr(got)));
}

/// Reading `text` as a file called "t.jsonl" fails at `line`.
void expect_error(const std::string& text, int line, const std::string& expected, const std::string& got,
                  std::optional<Format> format = std::nullopt) {
  const TemporaryFolder folder;
  const auto path = folder.write("t.jsonl", text);
  EXPECT_THAT([&] { read_trace(path, format); }, Throws<Error>(says("/t.jsonl:" + std::to_string(line), expected, got)))
      << text;
}

const std::string good = R"({"timestamp": 5, "input_length": 600, "output_length": 2, "hash_ids": [0, 1]})"
                         "\n";

// ---- Mooncake ----

TEST(Mooncake, BlocksAreSharedAndOwnTokensAreNot) {
  const TemporaryFolder folder;
  const auto path = folder.write(
      "t.jsonl", good +
                     R"({"timestamp": 1005, "input_length": 700, "output_length": 3, "hash_ids": [0, 1]})"
                     "\n" +
                     R"({"timestamp": 2005.5, "input_length": 513, "output_length": 1, "hash_ids": [0, 7]})"
                     "\n");
  const Trace trace = read_trace(path);
  EXPECT_EQ(trace.format, Format::mooncake);
  ASSERT_EQ(trace.requests.size(), 3u);
  EXPECT_EQ(trace.requests[0].arrival, 0);
  EXPECT_DOUBLE_EQ(trace.requests[1].arrival, 1.0);
  EXPECT_DOUBLE_EQ(trace.requests[2].arrival, 2.0005);
  EXPECT_EQ(trace.requests[1].output_length, 3);
  EXPECT_EQ(trace.num_prompt_tokens(), 1813);
  EXPECT_EQ(trace.num_output_tokens(), 6);
  EXPECT_EQ(common(trace, 0, 1), 600u);
  EXPECT_EQ(common(trace, 0, 2), 512u);
  std::vector<std::int32_t> whole;
  trace.tokens_of(trace.requests[0], 2, whole);
  EXPECT_EQ(whole.size(), 602u);
  EXPECT_NE(whole[600], trace.requests[1].first_output);
  EXPECT_EQ(whole[601], whole[600] + 1);
  EXPECT_THAT(trace.name_of(1), HasSubstr("request 1 (line 2 of t.jsonl)"));
}

TEST(Mooncake, HugeIdsBecomeDenseTokens) {
  const TemporaryFolder folder;
  const auto path = folder.write(
      "t.jsonl", R"({"timestamp": 0, "input_length": 2, "output_length": 0, "hash_ids": [9223372036854775807]})"
                 "\n");
  EXPECT_THAT(prompt_of(read_trace(path), 0), ElementsAre(0, 1));
}

TEST(Mooncake, BlockSizeOfALine) {
  const TemporaryFolder folder;
  const auto path = folder.write(
      "t.jsonl", R"({"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [3, 4], "block_size": 4})"
                 "\n"
                 R"({"timestamp": 0, "input_length": 9, "output_length": 1, "hash_ids": [3, 4, 5], "block_size": 4})"
                 "\n"
                 R"({"timestamp": 0, "input_length": 4, "output_length": 1, "hash_ids": [3]})"
                 "\n");
  const Trace trace = read_trace(path);
  EXPECT_EQ(common(trace, 0, 1), 5u);
  EXPECT_EQ(common(trace, 0, 2), 0u) << "a block of another size is another block";
}

TEST(Mooncake, UnsortedArrivalsAreSortedAndTheirLinesKept) {
  const TemporaryFolder folder;
  const auto path =
      folder.write("t.jsonl", R"({"timestamp": 9, "input_length": 1, "output_length": 1, "hash_ids": [0]})"
                              "\n"
                              R"({"timestamp": 3, "input_length": 2, "output_length": 1, "hash_ids": [0]})"
                              "\r\n"
                              "\n \n");
  const Trace trace = read_trace(path);
  ASSERT_EQ(trace.requests.size(), 2u);
  EXPECT_EQ(trace.requests[0].line, 2);
  EXPECT_EQ(trace.requests[1].line, 1);
  EXPECT_EQ(read_trace(path, std::nullopt, 1).requests[0].line, 2);
}

TEST(Mooncake, MalformedLinesAreNamed) {
  const std::string rest = R"("output_length": 2, "hash_ids": [0, 1]})";
  expect_error(good + R"({"timestamp": 5, "input_length": 600, "output_le)", 2, "a JSON object",
               R"('{"timestamp": 5, "input_length": 600, "output_le')");
  expect_error(good + "\n" + good, 2, "a JSON object", "a blank line");
  expect_error(good + "17\n", 2, "a JSON object", "17");
  expect_error(good + good.substr(0, good.size() - 1) + "{}\n", 2, "a JSON object", "timestamp");
  expect_error(good + R"({"timestamp": 5, )" + rest, 2, "\"input_length\": an integer", "no such field");
  expect_error(good + R"({"timestamp": 5, "input_length": 0, )" + rest, 2,
               "\"input_length\": an integer from 1 to 2147483647", "0");
  expect_error(good + R"({"timestamp": 5, "input_length": 4294967296, )" + rest, 2, "\"input_length\"", "4294967296");
  expect_error(good + R"({"timestamp": 5, "input_length": 600.5, )" + rest, 2, "\"input_length\"", "600.5");
  expect_error(good + R"({"timestamp": -1, "input_length": 600, )" + rest, 2, "\"timestamp\": a number of at least 0",
               "-1");
  expect_error(good + R"({"timestamp": "5", "input_length": 600, )" + rest, 2, "\"timestamp\": a number", "\"5\"");
  expect_error(good + R"({"timestamp": 5, "input_length": 600, "output_length": -2, "hash_ids": [0, 1]})", 2,
               "\"output_length\"", "-2");
  expect_error(good + R"({"timestamp": 5, "input_length": 600, "output_length": 2, "hash_ids": 3})", 2,
               "\"hash_ids\": an array", "3");
  expect_error(good + R"({"timestamp": 5, "input_length": 600, "output_length": 2, "hash_ids": [0, -1]})", 2,
               "\"hash_ids\" element: an integer from 0", "-1");
  expect_error(good + R"({"timestamp": 5, "input_length": 513, "output_length": 2, "hash_ids": [0]})", 2,
               "\"hash_ids\": 2 blocks for 513 tokens in blocks of 512", "1");
  expect_error(good + R"({"timestamp": 5, "input_length": 512, "output_length": 2, "hash_ids": [0, 1]})", 2,
               "\"hash_ids\": 1 blocks for 512 tokens", "2");
  expect_error(good + R"({"timestamp": 5, "input_length": 5, "output_length": 2, "hash_ids": [0], "block_size": 0})", 2,
               "\"block_size\": an integer from 1", "0");
  expect_error(good + R"({"timestamp": 5, "input_length": 5, "output_length": 2147483647, "hash_ids": [0]})", 2,
               "at most 2^31 - 1 distinct tokens", "more");
}

// ---- RAGPulse ----

class RagPulse : public testing::Test {
 protected:
  RagPulse() {
    folder.write("1_sys_prompt.jsonl", "{\"sys_prompt_id\": 5, \"token_length\": 10}\n");
    folder.write("2_passages.jsonl",
                 "{\"passage_id\": 5, \"token_length\": 3}\n{\"passage_id\": 6, \"token_length\": 4}\n\n");
  }
  Trace read(const std::string& rows) {
    folder.write("0_trace.jsonl", rows);
    return read_trace(folder.path());
  }
  void expect_error_in(const std::string& rows, const std::string& where, const std::string& expected,
                       const std::string& got) {
    folder.write("0_trace.jsonl", rows);
    EXPECT_THAT([&] { read_trace(folder.path()); }, Throws<Error>(says(where, expected, got))) << rows;
  }
  const std::string row =
      R"({"timestamp": "93", "input_length": 24, "output_length": 7, "hash_ids": {"sys_prompt": [5], "passages_ids": [6, 5]}})"
      "\n";
  TemporaryFolder folder;
};

TEST_F(RagPulse, ComponentsInOrderThenOwnTokens) {
  const Trace trace = read(
      row +
      R"({"timestamp": "82.5", "input_length": 21, "output_length": 8, "hash_ids": {"sys_prompt": [5], "passages_ids": [6]}})"
      "\n\n");
  EXPECT_EQ(trace.format, Format::ragpulse);
  ASSERT_EQ(trace.requests.size(), 2u);
  EXPECT_EQ(trace.requests[0].line, 2) << "sorted by time";
  EXPECT_EQ(trace.requests[0].prompt_length, 21);
  EXPECT_DOUBLE_EQ(trace.requests[1].arrival, 10.5);
  EXPECT_EQ(common(trace, 0, 1), 14u) << "system prompt and passage 6; then own tokens";
  const auto tokens = prompt_of(trace, 1);
  ASSERT_EQ(tokens.size(), 24u);
  EXPECT_NE(tokens[0], tokens[14]) << "component 5 of one table is not component 5 of the other";
  EXPECT_EQ(read_trace(folder.path() / "0_trace.jsonl").requests.size(), 2u);
}

TEST_F(RagPulse, MalformedRowsAreNamed) {
  expect_error_in(row + row.substr(0, 60), "/0_trace.jsonl:2", "a JSON object", "timestamp");
  expect_error_in(row + "\n" + row, "/0_trace.jsonl:2", "a JSON object", "a blank line");
  expect_error_in(R"({"timestamp": "soon", "input_length": 24, "output_length": 7, "hash_ids": {"sys_prompt": [5]}})",
                  "/0_trace.jsonl:1", "\"timestamp\": a number of at least 0", "soon");
  expect_error_in(R"({"timestamp": "nan", "input_length": 24, "output_length": 7, "hash_ids": {"sys_prompt": [5]}})",
                  "/0_trace.jsonl:1", "\"timestamp\": a number", "nan");
  expect_error_in(
      R"({"timestamp": "1", "input_length": 16, "output_length": 7, "hash_ids": {"sys_prompt": [5], "passages_ids": [6, 5]}})",
      "/0_trace.jsonl:1", "components of at most input_length = 16 tokens", "17");
  expect_error_in(R"({"timestamp": "1", "input_length": 16, "output_length": 7, "hash_ids": {"sys_prompt": [6]}})",
                  "/0_trace.jsonl:1", "\"sys_prompt\": ids of its table", "6");
  expect_error_in(R"({"timestamp": "1", "input_length": 16, "output_length": 7, "hash_ids": {"tools": [6]}})",
                  "/0_trace.jsonl:1", "a numbered table of token lengths for \"tools\"", "no such file");
  expect_error_in(R"({"timestamp": "1", "input_length": 16, "output_length": 7, "hash_ids": [5]})", "/0_trace.jsonl:1",
                  "\"hash_ids\": an object", "[5]");
  expect_error_in(R"({"timestamp": "1", "input_length": 16, "output_length": 7, "hash_ids": {"sys_prompt": "5"}})",
                  "/0_trace.jsonl:1", "\"sys_prompt\": an array", "\"5\"");
}

TEST_F(RagPulse, MalformedTablesAreNamed) {
  folder.write("2_passages.jsonl",
               "{\"passage_id\": 5, \"token_length\": 3}\n{\"passage_id\": 5, \"token_length\": 3}\n");
  expect_error_in(row, "/2_passages.jsonl:2", "each id once", "5 again");
  folder.write("2_passages.jsonl", "{\"passage_id\": 5, \"token_length\": -3}\n");
  expect_error_in(row, "/2_passages.jsonl:1", "\"token_length\": an integer from 0", "-3");
  folder.write("2_passages.jsonl", "{\"passage\": 5, \"token_length\": 3}\n");
  expect_error_in(row, "/2_passages.jsonl:1", "a field that ends in \"_id\"", "none");
}

// ---- Tree of thought ----

std::string node(int id, int parent, int tokens, int start, int end) {
  return "{\"id\":" + std::to_string(id) + ",\"parent\":" + std::to_string(parent) +
         ",\"tokens\":" + std::to_string(tokens) + ",\"start\":" + std::to_string(start) +
         ",\"end\":" + std::to_string(end) + "}";
}

std::string tree(const std::vector<std::string>& nodes) {
  std::string text;
  for (const auto& one : nodes) text += (text.empty() ? "" : ",") + one;
  return "{\"incomplete\":false,\"nodes\":[" + text + "]}\n";
}

TEST(TreeOfThought, BranchesForkFromTheirParentsEnd) {
  const TemporaryFolder folder;
  const auto path = folder.write("t.jsonl", tree({node(0, -1, 3, -2, 0), node(1, 0, 2, 1, 2), node(4, 0, 5, 1, 5),
                                                  node(3, 2, 2, 6, 7), node(2, 4, 0, 6, 5)}) +
                                                tree({node(9, -1, 4, -3, 0)}));
  const Trace trace = read_trace(path);
  EXPECT_EQ(trace.format, Format::tree_of_thought);
  ASSERT_EQ(trace.requests.size(), 6u);
  const auto& root = trace.requests[0];
  EXPECT_EQ(root.prompt_length, 3);
  EXPECT_EQ(root.output_length, 0);
  EXPECT_EQ(root.parent, -1);
  EXPECT_EQ(trace.requests[1].parent, 0);
  EXPECT_EQ(trace.requests[2].parent, 0);
  EXPECT_EQ(trace.requests[3].parent, 2) << "node 2, whose parent is node 4";
  EXPECT_EQ(trace.requests[3].output_length, 0);
  EXPECT_EQ(trace.requests[4].parent, 3) << "node 3, which comes before its parent in the line";
  EXPECT_EQ(trace.requests[5].parent, -1);
  std::vector<std::int32_t> parent;
  trace.tokens_of(trace.requests[2], 5, parent);
  EXPECT_EQ(prompt_of(trace, 4), parent) << "a branch's prompt is all its ancestors have";
  EXPECT_EQ(read_trace(path, std::nullopt, 2).requests.size(), 2u);
}

TEST(TreeOfThought, MalformedTreesAreNamed) {
  const std::string root = node(0, -1, 3, -2, 0);
  const std::string fine = tree({root});
  expect_error(fine + tree({root, node(1, 0, 2, 1, 3)}), 2, "node 1: tokens = end - start + 1 = 3", "2");
  expect_error(fine + tree({root, node(1, 0, 2, 2, 3)}), 2, "node 1: start in the step after its parent's end, 1", "2");
  expect_error(fine + tree({root, node(1, 7, 2, 1, 2)}), 2, "node 1: a parent in the tree", "7");
  expect_error(fine + tree({root, node(0, 0, 2, 1, 2)}), 2, "each node id once", "0 again");
  expect_error(fine + tree({root, node(1, -1, 2, 1, 2)}), 2, "one root (parent -1)", "2");
  expect_error(fine + tree({}), 2, "one root", "0");
  expect_error(fine + tree({root, node(1, 2, 0, 1, 0), node(2, 1, 0, 1, 0)}), 2, "every node below the root",
               "2 nodes that are not");
  expect_error(fine + tree({node(0, -1, 0, 1, 0)}), 2, "\"tokens\": an integer from 1", "0");
  expect_error(fine + tree({"7"}), 2, "\"nodes\" element: an object", "7");
  expect_error(fine + R"({"nodes": 1})", 2, "\"nodes\": an array", "1");
  expect_error(fine + fine.substr(0, 40), 2, "a JSON object", "nodes");
}

// ---- Paths and formats ----

TEST(ReadTrace, RefusesWhatIsNoTrace) {
  const TemporaryFolder folder;
  EXPECT_THAT([&] { read_trace(folder.path() / "absent.jsonl"); },
              Throws<Error>(says("absent.jsonl", "a readable file", "No such file")));
  EXPECT_THAT([&] { read_trace(folder.path()); }, Throws<Error>(says("", "a folder with 0_trace.jsonl", "without")));
  const auto empty = folder.write("empty.jsonl", "\n");
  EXPECT_THAT([&] { read_trace(empty); }, Throws<Error>(says("empty.jsonl", "a trace", "an empty file")));
  EXPECT_THAT([&] { read_trace(empty, Format::mooncake); },
              Throws<Error>(says("empty.jsonl", "at least one request", "none")));
  expect_error("{\"time\": 1}\n", 1, "\"timestamp\" (Mooncake) or \"nodes\"", "neither field");
  expect_error(good, 1, "\"nodes\": an array", "no such field", Format::tree_of_thought);
  EXPECT_THAT([] { format_from_string("csv"); }, Throws<Error>(says("format", "mooncake, ragpulse", "'csv'")));
  for (const Format format : {Format::mooncake, Format::ragpulse, Format::tree_of_thought}) {
    EXPECT_EQ(format_from_string(to_string(format)), format);
  }
}

struct RealTrace {
  const char* name;
  Format format;
  std::size_t requests;
  std::int64_t prompt_tokens, output_tokens;
  double last_arrival;
};

class RealTraces : public testing::TestWithParam<RealTrace> {};

TEST_P(RealTraces, AreReadWhole) {
  const RealTrace& expected = GetParam();
  TRUNKLINE_REAL_TRACE(path, expected.name);
  const Trace trace = read_trace(path);
  EXPECT_EQ(trace.format, expected.format);
  EXPECT_EQ(trace.requests.size(), expected.requests);
  EXPECT_EQ(trace.num_prompt_tokens(), expected.prompt_tokens);
  EXPECT_EQ(trace.num_output_tokens(), expected.output_tokens);
  EXPECT_NEAR(trace.requests.back().arrival, expected.last_arrival, 1e-9);
}

// Counted once with another program.
INSTANTIATE_TEST_SUITE_P(All, RealTraces,
                         testing::Values(RealTrace{"mooncake/conversation_trace.jsonl", Format::mooncake, 12031,
                                                   144793823, 4122048, 3536.999},
                                         RealTrace{"mooncake/synthetic_trace.jsonl", Format::mooncake, 3993, 61194628,
                                                   595432, 1022.025},
                                         RealTrace{"mooncake_toolagent_slice/toolagent_slice.jsonl", Format::mooncake,
                                                   276, 2147336, 53330, 42.747},
                                         RealTrace{"ragpulse", Format::ragpulse, 7106, 20917099, 2012676, 604603}),
                         [](const auto& test) { return "Trace" + std::to_string(test.index); });

TEST(RealTraces, TreesOfThought) {
  TRUNKLINE_REAL_TRACE(path, "deft_tot/docmergeToT.trees.jsonl");
  const Trace trace = read_trace(path);
  EXPECT_EQ(trace.format, Format::tree_of_thought);
  EXPECT_EQ(std::count_if(trace.requests.begin(), trace.requests.end(),
                          [](const Request& request) { return request.parent < 0; }),
            50);
  EXPECT_EQ(trace.requests.size(), 50u * 31u);
}

}  // namespace
}  // namespace trunkline::trace
