// The replay and trace commands as a user runs them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "tools/trace_files.hpp"

namespace trunkline {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Ran {
  int exit_code;
  std::string out;  // standard output, standard error after it when asked for
};

Ran trunkline_command(const std::string& arguments, bool with_errors = true) {
  const std::string command = std::string("'") + TRUNKLINE_COMMAND + "' " + arguments + (with_errors ? " 2>&1" : "");
  std::FILE* pipe = ::popen(command.c_str(), "r");
  std::string out;
  char buffer[4096];
  for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) out.append(buffer, n);
  const int status = ::pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, out};
}

json read_json(const std::filesystem::path& path) {
  std::ifstream file(path);
  return json::parse(file);
}

class ReplayCommand : public testing::Test {
 protected:
  /// 12 requests of 2 groups, 20 shared and 6 own tokens, 8 decoded; block size 20.
  void SetUp() override {
    const Ran ran = trunkline_command(
        "trace generate --num-groups 2 --prompts-per-group 6 --system-prompt-len 20 --question-len 6 --output-len 8 "
        "--request-rate 0 --out '" +
        trace() + "'");
    ASSERT_EQ(ran.exit_code, 0) << ran.out;
  }
  std::string trace() const { return (folder.path() / "t.jsonl").string(); }
  std::string result() const { return (folder.path() / "r.json").string(); }
  Ran replay(const std::string& options) const {
    return trunkline_command("replay '" + trace() + "' --heads 4/2 --head-dim 16 --repeats 2 --threads 1 " + options);
  }
  void expect_refused(const std::string& options, int exit_code, const std::string& message) const {
    const Ran ran = trunkline_command("replay '" + trace() + "' " + options);
    EXPECT_EQ(ran.exit_code, exit_code) << options << "\n" << ran.out;
    EXPECT_THAT(ran.out, HasSubstr(message)) << options;
  }
  test::TemporaryFolder folder;
};

TEST_F(ReplayCommand, ReportsWhatIsAsked) {
  const Ran ran = replay("--page-size 4 --samples 2 --verify=1 --json '" + result() + "'");
  ASSERT_EQ(ran.exit_code, 0) << ran.out;
  for (const char* part : {"12 requests", "hit", "evicted", "preemptions", "share", "speed-up", "auto", "unshared",
                           "two_phase", "hydragen", "verified   tree and forest of 8 steps"}) {
    EXPECT_THAT(ran.out, HasSubstr(part));
  }
  const json got = read_json(result());
  EXPECT_EQ(got["schema"], 1);
  EXPECT_EQ(got["kind"], "replay");
  for (const char* field : {"machine", "device", "commit", "command"}) EXPECT_TRUE(got.contains(field)) << field;

  const json& summary = got["summary"];
  EXPECT_EQ(summary["requests"], 12);
  EXPECT_EQ(summary["requests_finished"], 12);
  EXPECT_EQ(summary["steps"], 8);
  EXPECT_EQ(summary["output_tokens"], 96);
  EXPECT_EQ(summary["prompt_tokens"], 12 * 26);
  EXPECT_EQ(summary["cached_tokens"], 10 * 20) << "all but the first of each group find their system prompt";
  EXPECT_EQ(summary["preemptions"], 0);

  ASSERT_EQ(got["rows"].size(), 4u);
  for (const json& row : got["rows"]) {
    EXPECT_EQ(row["cold_us"]["runs"], 4);
    EXPECT_GT(row["cold_us"]["median"].get<double>(), 0);
    EXPECT_LE(row["cold_us"]["p10"].get<double>(), row["cold_us"]["p90"].get<double>());
    EXPECT_LE(row["error_ratio"].get<double>(), 1);
    EXPECT_GT(row["checked_rows"].get<int>(), 0);
    EXPECT_GT(row["speedup"].get<double>(), 0);
    EXPECT_GE(row["kv_bytes_read"].get<double>(), row["distinct_bytes"].get<double>());
  }
  const json& series = got["series"];
  EXPECT_EQ(series["step"].size(), 8u);
  for (const auto& [field, values] : series.items()) {
    EXPECT_EQ(values.size(), field == "strategy_us" ? 4u : 8u) << field;
  }
  for (const auto& [strategy, times] : series["strategy_us"].items()) {
    ASSERT_EQ(times.size(), 8u) << strategy;
    EXPECT_EQ(std::count_if(times.begin(), times.end(), [](const json& time) { return time.is_number(); }), 2);
  }
  // Step 0: 12 requests of 27 tokens; 2 x 20 shared, 12 x 7 own.
  const double token_bytes = 2 * 2 * 16 * 2;
  EXPECT_EQ(series["batch"][0], 12);
  EXPECT_EQ(series["total_kv_bytes"][0], 12 * 27 * token_bytes);
  EXPECT_EQ(series["distinct_kv_bytes"][0], (2 * 20 + 12 * 7) * token_bytes);
  EXPECT_EQ(got["forest"]["num_requests"], 12);
  EXPECT_EQ(got["forest"]["nodes"].size(), 14u) << "a node for each system prompt and each request";
}

TEST_F(ReplayCommand, SimulationIsDeterministic) {
  const std::string options = "--page-size 4 --num-pages 20 --samples 0 --json '" + result() + "'";
  ASSERT_EQ(replay(options).exit_code, 0);
  json first = read_json(result());
  ASSERT_EQ(replay(options).exit_code, 0);
  json second = read_json(result());
  EXPECT_GT(first["summary"]["preemptions"], 0);
  EXPECT_EQ(first["summary"]["requests_finished"], 12);
  EXPECT_EQ(first["series"], second["series"]);
  first["summary"].erase("simulation_s");
  second["summary"].erase("simulation_s");
  EXPECT_EQ(first["summary"], second["summary"]);
}

TEST_F(ReplayCommand, JsonOnStandardOutputStandsAlone) {
  const Ran ran = trunkline_command(
      "replay '" + trace() + "' --heads 4/2 --head-dim 16 --samples 1 --repeats 1 --strategy auto --json - 2>/dev/null",
      false);
  ASSERT_EQ(ran.exit_code, 0);
  const json got = json::parse(ran.out);
  ASSERT_EQ(got["rows"].size(), 1u);
  EXPECT_FALSE(got["rows"][0].contains("speedup")) << "over unshared, which was not measured";
}

TEST_F(ReplayCommand, SaysWhatItCapped) {
  // A page of 4 tokens is 512 bytes; 2 x 5 shared and 12 x 3 own pages run together.
  const Ran ran = replay("--page-size 4 --num-pages 1000 --memory-limit 10k --samples 1 --json '" + result() + "'");
  ASSERT_EQ(ran.exit_code, 0) << ran.out;
  EXPECT_THAT(ran.out, HasSubstr("requests are left out, --memory-limit is 10 KiB"));
  const json got = read_json(result());
  EXPECT_GT(got["capped"][0]["left_out_requests"], 0);
  EXPECT_LE(got["summary"]["kv_memory_bytes"], 10240);
  expect_refused("--heads 4/2 --head-dim 16 --page-size 4 --num-pages 1000 --memory-limit 1k", 2,
                 "room for the KV of one request");
}

TEST_F(ReplayCommand, BadInputIsNamed) {
  expect_refused("--page-size 4 --num-pages 8", 2,
                 "at least the 9 pages of 4 tokens that request 0 (line 1 of t.jsonl)");
  expect_refused("--concurrency 2 --time-scale 1", 2, "--concurrency or --time-scale, not both");
  expect_refused("--strategy fast", 2, "unshared");
  expect_refused("--heads 5/2", 2, "heads: expected positive numbers, the KV heads dividing the query heads");
  expect_refused("--head-dim 257", 2, "head_dim");
  expect_refused("--page-size 0", 2, "page_size");
  expect_refused("--max-batch 0", 2, "max-batch: expected at least 1, got 0");
  expect_refused("--num-pages 0", 2, "num-pages: expected at least 1, got 0");
  expect_refused("--decode-step -1.5", 2, "decode-step: expected a number of at least 0, got -1.5");
  expect_refused("--verify=-2", 2, "--verify: expected a number of at least 0, got -2");
  expect_refused("--memory-limit lots", 2, "memory-limit");
  expect_refused("--format csv", 2, "mooncake, ragpulse or tree-of-thought");
  expect_refused("--format tree-of-thought", 2, "t.jsonl:1: expected \"nodes\": an array, got no such field");
  expect_refused("--dtype float8_e4m3", 3, "float8_e4m3");
  const Ran absent = trunkline_command("replay /nowhere/t.jsonl");
  EXPECT_EQ(absent.exit_code, 2);
  EXPECT_THAT(absent.out, HasSubstr("/nowhere/t.jsonl: expected a readable file, got No such file"));
}

TEST_F(ReplayCommand, WhatCannotBeMeasuredIsRefusedBeforeTheSimulation) {
  const std::string spec = folder.write("spec.json", "{}").string();
  for (const std::string& options :
       {std::string("--simd-target avx9"), std::string("--kernel sm90"), std::string("--num-ctas 7"),
        "--device-spec '" + spec + "'", std::string("--strategy fast"), std::string("--json /no/such/folder/r.json")}) {
    const Ran ran = replay(options);
    EXPECT_THAT(ran.exit_code, testing::AnyOf(2, 3)) << options;
    EXPECT_THAT(ran.out, testing::StartsWith("trunkline: ")) << options;
    EXPECT_EQ(std::count(ran.out.begin(), ran.out.end(), '\n'), 1) << ran.out;
  }
}

TEST_F(ReplayCommand, VerifyTakesANumberOfSteps) {
  const auto steps = [&](const std::string& verify) {
    const Ran ran = replay("--page-size 4 --samples 0 " + verify + " --json '" + result() + "'");
    EXPECT_EQ(ran.exit_code, 0) << ran.out;
    return read_json(result())["summary"]["verified_steps"].get<int>();
  };
  EXPECT_EQ(steps(""), 0);
  EXPECT_EQ(steps("--verify=0"), 0);
  EXPECT_EQ(steps("--verify"), 0) << "8 steps are fewer than 100";
  EXPECT_EQ(steps("--verify=2"), 4);
}

TEST_F(ReplayCommand, ATruncatedTraceIsNamedByItsLine) {
  std::ifstream file(trace());
  std::stringstream text;
  text << file.rdbuf();
  folder.write("t.jsonl", text.str().substr(0, text.str().size() - 30));
  expect_refused("", 2, "t.jsonl:12: expected a JSON object, got '{\"timestamp\"");
}

TEST(TraceCommand, RefusesBadWorkloads) {
  const Ran ran = trunkline_command("trace generate --num-groups 2 --num-prefixes 3");
  EXPECT_EQ(ran.exit_code, 2);
  EXPECT_THAT(ran.out, HasSubstr("num_prefixes: expected an integer from 1 to 2, got 3"));
  EXPECT_EQ(trunkline_command("trace").exit_code, 2);
  EXPECT_EQ(trunkline_command("trace generate --out /nowhere/t.jsonl").exit_code, 2);
}

class ReplayRealTrace : public testing::TestWithParam<const char*> {};

TEST_P(ReplayRealTrace, LargeRuns) {
  TRUNKLINE_REAL_TRACE(path, GetParam());
  const Ran ran = trunkline_command("replay '" + path.string() +
                                    "' --max-requests 100 --heads 4/1 --head-dim 32 --samples 1 --repeats 1");
  EXPECT_EQ(ran.exit_code, 0) << ran.out;
  EXPECT_THAT(ran.out, HasSubstr("100 requests"));
}

INSTANTIATE_TEST_SUITE_P(All, ReplayRealTrace,
                         testing::Values("mooncake/conversation_trace.jsonl", "mooncake/synthetic_trace.jsonl",
                                         "mooncake_toolagent_slice/toolagent_slice.jsonl", "ragpulse",
                                         "deft_tot/docmergeToT.trees.jsonl"),
                         [](const auto& test) { return "Trace" + std::to_string(test.index); });

}  // namespace
}  // namespace trunkline
