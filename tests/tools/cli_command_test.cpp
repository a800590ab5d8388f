// The command line: what it writes, what it refuses, and with which exit code.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "tools/run_command.hpp"
#include "tools/trace_files.hpp"
#include "trunkline/system.hpp"

namespace trunkline {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int ok = 0, bad_input = 2, unsupported = 3;
const std::string small_bench =
    "bench --batch 3 --shared 40 --unique 8 --heads 4/2 --head-dim 32 --repeats 2 --threads 2 ";

class Command : public testing::Test {
 protected:
  test::CommandResult run(const std::string& arguments) const { return test::run_command(arguments, folder.path()); }
  std::string file(const std::string& name, const std::string& text) const {
    return "'" + folder.write(name, text).string() + "'";
  }
  json run_json(const std::string& arguments) const {
    const auto result = run(arguments + " --json -");
    EXPECT_EQ(result.exit_code, ok) << arguments << "\n" << result.errors;
    return json::parse(result.out, nullptr, false);
  }
  /// One line on standard error that names what is wrong, and nothing on standard output.
  void expect_refused(const std::string& arguments, int exit_code, const std::vector<std::string>& parts) const {
    const auto result = run(arguments);
    EXPECT_EQ(result.exit_code, exit_code) << arguments;
    EXPECT_EQ(result.out, "") << arguments;
    for (const auto& part : parts) EXPECT_THAT(result.errors, HasSubstr(part)) << arguments;
  }
  /// As above, from the library: "trunkline: <code>: <argument>: expected ..., got ...".
  void expect_error_line(const std::string& arguments, int exit_code, const std::vector<std::string>& parts) const {
    expect_refused(arguments, exit_code, parts);
    const std::string errors = run(arguments).errors;
    EXPECT_THAT(errors, StartsWith("trunkline: ")) << arguments;
    EXPECT_EQ(std::count(errors.begin(), errors.end(), '\n'), 1) << errors;
  }

  test::TemporaryFolder folder;
};

TEST_F(Command, HelpNamesEveryCommandAndTheExitCodes) {
  const auto help = run("--help");
  EXPECT_EQ(help.exit_code, ok);
  for (const char* part : {"replay", "bench", "plan", "check", "calibrate", "trace", "report", "info", "Exit codes: 0",
                           "1 a result exceeded its error bound", "2 bad usage or input", "3 not supported"}) {
    EXPECT_THAT(help.out, HasSubstr(part));
  }
  EXPECT_THAT(run("bench --help").out, HasSubstr("Exit codes"));
  EXPECT_THAT(run("--version").out, HasSubstr(version()));
}

TEST_F(Command, UsageErrorsAreBadInput) {
  expect_refused("", bad_input, {"subcommand"});
  expect_refused("no_such_command", bad_input, {"no_such_command"});
  expect_refused("bench --no-such-option", bad_input, {"--no-such-option"});
  expect_refused("bench --batch many", bad_input, {"--batch"});
  expect_refused("bench --repeats 0", bad_input, {"--repeats"});
  expect_refused("bench --threads 0", bad_input, {"--threads"});
  expect_refused("bench --grid x.json --batch 3", bad_input, {"--grid", "--batch"});
  expect_refused("report", bad_input, {"files"});
}

TEST_F(Command, ShapesThatCannotBeAreBadInput) {
  expect_error_line("bench --batch=-1", bad_input, {"batch", "-1"});
  expect_error_line("bench --batch -1", bad_input, {"batch", "-1"});
  expect_error_line("bench --batch 0", bad_input, {"batch", "0"});
  expect_error_line("bench --shared=-5", bad_input, {"tokens", "-5"});
  expect_error_line("bench --heads 32", bad_input, {"heads", "32/8", "'32'"});
  expect_error_line("bench --heads 32/5", bad_input, {"heads", "dividing", "32/5"});
  expect_error_line("bench --heads 0/0", bad_input, {"heads", "0/0"});
  expect_error_line("bench --dtype int7", bad_input, {"dtype", "float32", "int7"});
  expect_error_line("bench --head-dim 300", bad_input, {"head_dim", "256", "300"});
  expect_error_line("bench --page-size 0", bad_input, {"page_size", "1024", "0"});
  expect_error_line("bench --page-size 1025", bad_input, {"page_size", "1024", "1025"});
  expect_error_line("bench --qo-len 5000", bad_input, {"qo_len", "5000"});
  expect_error_line("bench --strategy fastest", bad_input, {"strategy", "two_phase", "fastest"});
  expect_error_line("bench --page-order shuffled", bad_input, {"page-order", "shuffled"});
  expect_error_line("bench --kv-layout dhn", bad_input, {"kv-layout", "dhn"});
  expect_error_line("bench --max-bytes 3X", bad_input, {"max-bytes", "3X"});
  expect_error_line("plan --device-spec no_such_file.json", bad_input, {"no_such_file.json"});
  expect_error_line("plan --trace no_such_trace.jsonl", bad_input, {"no_such_trace.jsonl"});
  expect_error_line("plan --strategy fastest", bad_input, {"strategy", "two_phase", "fastest"});
}

TEST_F(Command, ChosenCasesAndTimeLimit) {
  const std::string grid = file("three.json", R"({"schema": 1, "defaults": {"heads": [4, 2], "head_dim": 32}, "cases": [
    {"batch": 1, "shared": 0, "unique": 16}, {"batch": 2, "shared": 0, "unique": 16}, {"batch": 3, "shared": 0, "unique": 16}]})");
  const json chosen = run_json("bench --repeats 1 --strategy auto --cases 1,3 --grid " + grid);
  ASSERT_EQ(chosen["rows"].size(), 2u);
  EXPECT_EQ(chosen["rows"][1]["label"], "3 x 16");
  expect_error_line("bench --cases 4 --grid " + grid, bad_input, {"cases", "1 to 3", "'4'"});
  expect_refused("bench --cases 1", bad_input, {"--cases", "--grid"});
  const json none = run_json("bench --repeats 1 --time-limit 1e-9 --grid " + grid);
  EXPECT_EQ(none["rows"].size(), 0u);
  ASSERT_EQ(none["skipped"].size(), 3u);
  EXPECT_THAT(none["skipped"][0]["reason"].get<std::string>(), HasSubstr("time limit"));
}

TEST_F(Command, OptionsOfCudaNeedCuda) {
  expect_error_line(small_bench + "--layers 4", unsupported, {"layers", "--backend cuda"});
  expect_error_line(small_bench + "--host", unsupported, {"host", "--backend cuda"});
}

TEST_F(Command, WhatThisBuildLacksIsUnsupported) {
  expect_error_line(small_bench + "--simd-target avx9", unsupported, {"simd_target", "avx9"});
  expect_error_line("check --quick --simd-target avx9", unsupported, {"simd_target", "avx9"});
  expect_error_line("info --simd-target avx9", unsupported, {"simd_target", "avx9"});
  expect_error_line("bench --dtype float8_e4m3", unsupported, {"fp8"});
  expect_error_line("bench --backend tpu", bad_input, {"backend", "tpu"});
  for (const Backend& backend : backends()) {
    if (backend.name != "cuda" || backend.available) continue;
    expect_error_line(small_bench + "--backend cuda", unsupported, {"backend", "cuda", backend.detail});
    expect_error_line("check --backend cuda", unsupported, {"cuda"});
    expect_error_line("calibrate --backend cuda", unsupported, {"cuda"});
  }
}

TEST_F(Command, GridErrorsNameFileCaseAndField) {
  expect_error_line("bench --grid no_such_grid.json", bad_input, {"no_such_grid.json"});
  expect_error_line("bench --grid " + file("a.json", "{\"schema\": 1, \"cases\": [}"), bad_input, {"a.json", "JSON"});
  expect_error_line("bench --grid " + file("b.json", "[]"), bad_input, {"b: grid", "object"});
  expect_error_line("bench --grid " + file("c.json", R"({"schema": 2, "cases": []})"), bad_input, {"c: schema", "2"});
  expect_error_line("bench --grid " + file("d.json", R"({"schema": 1})"), bad_input, {"d: cases"});
  const auto with_case = [&](const std::string& text) {
    return "bench --grid " +
           file("grid.json",
                R"({"schema": 1, "defaults": {"heads": [4, 2]}, "cases": [{"batch": 1, "shared": 0, "unique": 8}, )" +
                    text + "]}");
  };
  expect_error_line(with_case("7"), bad_input, {"grid: case 2", "object", "7"});
  expect_error_line(with_case(R"({"batch": 4, "shared": 8})"), bad_input, {"grid: case 2: unique", "none"});
  expect_error_line(with_case(R"({"batch": "4", "shared": 8, "unique": 1})"), bad_input,
                    {"grid: case 2: batch", "integer"});
  expect_error_line(with_case(R"({"batch": 1e300, "shared": 8, "unique": 1})"), bad_input, {"grid: case 2: batch"});
  expect_error_line(with_case(R"({"batch": -4, "shared": 8, "unique": 1})"), bad_input, {"grid: case 2: batch", "-4"});
  expect_error_line(with_case(R"({"batch": 4, "shared": 8, "unique": 1, "heads": [4]})"), bad_input,
                    {"grid: case 2: heads"});
  expect_error_line(with_case(R"({"batch": 4, "shared": 8, "unique": 1, "heads": [4, 3]})"), bad_input,
                    {"grid: case 2: ", "4", "3"});
  expect_error_line(with_case(R"({"batch": 4, "shared": 8, "unique": 1, "dtype": "int7"})"), bad_input,
                    {"grid: case 2: dtype", "int7"});
  expect_error_line(with_case(R"({"batch": 4, "shared": 8, "unique": 1, "head_dim": 300})"), bad_input,
                    {"grid: case 2: head_dim", "300"});
  expect_error_line(with_case(R"({"nodes_per_level": [1, 4], "tokens_per_node": [8]})"), bad_input,
                    {"grid: case 2: tokens_per_node", "2"});
  expect_error_line(with_case(R"({"nodes_per_level": [4, 1], "tokens_per_node": [8, 8]})"), bad_input,
                    {"grid: case 2: nodes_per_level"});
  expect_error_line(with_case(R"({"nodes_per_level": [], "tokens_per_node": []})"), bad_input,
                    {"grid: case 2: nodes_per_level"});
}

TEST_F(Command, BenchWritesTheDemandedFields) {
  const json result = run_json(small_bench + "--strategy all --page-size 16 --dtype float32");
  for (const char* field : {"schema", "kind", "machine", "device", "commit", "command", "rows", "flush", "skipped"}) {
    EXPECT_TRUE(result.contains(field)) << field;
  }
  EXPECT_EQ(result["schema"], 1);
  EXPECT_THAT(result["command"].get<std::string>(), HasSubstr("--strategy all"));
  ASSERT_EQ(result["rows"].size(), 4u);
  for (const json& row : result["rows"]) {
    for (const char* field :
         {"grid",    "case",    "backend",  "kernel",      "strategy", "dtype",          "page_size",
          "cold_us", "warm_us", "floor_us", "floor_bound", "ratio",    "distinct_bytes", "operations",
          "gbps",    "tflops",  "share",    "plan_us",     "model_us", "max_error",      "error_bound"}) {
      EXPECT_TRUE(row.contains(field)) << field;
    }
    for (const char* field : {"median", "p10", "p90", "runs"}) {
      EXPECT_TRUE(row["cold_us"].contains(field) && row["warm_us"].contains(field)) << field;
    }
    EXPECT_EQ(row["cold_us"]["runs"], 2);
    EXPECT_GT(row["floor_us"].get<double>(), 0);
    EXPECT_GT(row["plan_us"].get<double>(), 0);
    EXPECT_NEAR(row["ratio"].get<double>(), row["cold_us"]["median"].get<double>() / row["floor_us"].get<double>(),
                1e-9);
    // 40 shared tokens fill two pages and half a third, of which each of three requests has its own copy.
    EXPECT_EQ(row["distinct_bytes"], (32 + 3 * 16) * 2 * 2 * 32 * 4);
    EXPECT_EQ(row["operations"], 4.0 * 32 * 4 * 3 * 48);
    EXPECT_DOUBLE_EQ(row["share"].get<double>(), 3 * 48 / 80.0);
    EXPECT_GT(row["checked_rows"].get<int>(), 0);
    EXPECT_LE(row["error_ratio"].get<double>(), 1);
  }
}

TEST_F(Command, ForcedTargetRan) {
  for (const std::string& target : simd_targets()) {
    const json bench = run_json(small_bench + "--simd-target " + target);
    for (const json& row : bench["rows"]) EXPECT_EQ(row["kernel"], "cpu/" + target);
    EXPECT_EQ(bench["device"]["kernel"], "cpu/" + target);
    EXPECT_EQ(run_json("info --simd-target " + target)["kernel"], "cpu/" + target);
  }
  const json bench = run_json(small_bench + "--backend cpu");
  EXPECT_EQ(bench["rows"][0]["kernel"], "cpu/" + simd_targets().front());
  EXPECT_EQ(bench["rows"][0]["threads"], 2);
}

TEST_F(Command, BenchSkipsWhatDoesNotFitAndSaysSo) {
  const std::string grid = file("two.json", R"({"schema": 1, "defaults": {"heads": [4, 2], "head_dim": 32}, "cases": [
    {"batch": 2, "shared": 16, "unique": 16}, {"batch": 100, "shared": 16, "unique": 1600}]})");
  const auto result = run("bench --repeats 1 --max-bytes 1M --grid " + grid);
  EXPECT_EQ(result.exit_code, ok) << result.errors;
  EXPECT_THAT(result.out, HasSubstr("skipped: 100 x (16 + 1600) heads 4/2: its KV takes"));
  const json written = run_json("bench --repeats 1 --max-bytes 1M --grid " + grid);
  EXPECT_EQ(written["rows"].size(), 2u);
  ASSERT_EQ(written["skipped"].size(), 1u);
  EXPECT_EQ(written["skipped"][0]["case"]["batch"], 100);
  EXPECT_EQ(run("bench --repeats 1 --max-bytes 1k --grid " + grid).exit_code, bad_input);  // nothing was measured
}

TEST_F(Command, TreesOfAGridShareLevelByLevel) {
  const std::string grid =
      file("tree.json", R"({"schema": 1, "defaults": {"heads": [4, 2], "head_dim": 32, "page_size": 16},
    "cases": [{"nodes_per_level": [1, 2, 6], "tokens_per_node": [32, 64, 16]}]})");
  const json row = run_json("bench --repeats 1 --grid " + grid)["rows"][0];
  EXPECT_EQ(row["label"], "1,2,6 x 32,64,16");
  EXPECT_DOUBLE_EQ(row["share"].get<double>(), 6 * 112 / (32.0 + 2 * 64 + 6 * 16));
}

TEST_F(Command, PlanPrintsForestAndPlan) {
  const auto text = run("plan --batch 4 --shared 64 --unique 16 --heads 4/2");
  EXPECT_EQ(text.exit_code, ok) << text.errors;
  EXPECT_THAT(text.out, HasSubstr("forest: 4 requests, 5 nodes, 320 tokens, 128 distinct, share 2.50"));
  EXPECT_THAT(text.out, HasSubstr("  node 0: tokens 0 to 64, 4 requests\n    node 1: tokens 64 to 80, 1 request\n"));
  EXPECT_THAT(run("plan --batch 4 --shared 64 --unique 16 --max-nodes 2").out, HasSubstr("and 3 nodes more"));
  const json written = run_json("plan --batch 4 --shared 64 --unique 16 --device-spec h200 --strategy all");
  EXPECT_EQ(written["forest"]["nodes"].size(), 5u);
  EXPECT_EQ(written["device"]["spec"]["num_workers"], 132);
  ASSERT_EQ(written["rows"].size(), 4u);
  for (const json& row : written["rows"]) EXPECT_TRUE(row["plan"].is_object());
}

TEST_F(Command, PlanOfAStepOfATrace) {
  const std::string trace = "'" + (folder.path() / "t.jsonl").string() + "'";
  ASSERT_EQ(run("trace generate --num-groups 1 --prompts-per-group 4 --system-prompt-len 32 --question-len 8 "
                "--output-len 4 --request-rate 0 --out " +
                trace)
                .exit_code,
            ok);
  const auto text = run("plan --step 2 --trace " + trace);
  EXPECT_EQ(text.exit_code, ok) << text.errors;
  EXPECT_THAT(text.out, HasSubstr("forest: 4 requests"));
  expect_error_line("plan --step 1000 --trace " + trace, bad_input, {"step", "1000"});
}

TEST_F(Command, DeviceSpecGoesThroughAFile) {
  const std::string path = (folder.path() / "spec.json").string();
  ASSERT_EQ(run("calibrate --threads 2 --out '" + path + "'").exit_code, ok);
  const json written = json::parse(test::read_text(path));
  EXPECT_GT(written["read_bandwidth"].get<double>(), 0);
  const json plan = run_json("plan --device-spec '" + path + "'");
  EXPECT_EQ(plan["device"]["spec"], written);
  json broken = written;
  broken["wide"].erase("flops");
  expect_error_line("plan --device-spec " + file("broken.json", broken.dump()), bad_input, {"wide: flops", "none"});
  broken = written;
  broken["num_workers"] = "two";
  expect_error_line("plan --device-spec " + file("broken.json", broken.dump()), bad_input, {"num_workers", "two"});
}

TEST_F(Command, InfoNamesBackendsAndTargets) {
  const json info = run_json("info");
  EXPECT_EQ(info["simd_targets"].get<std::vector<std::string>>(), simd_targets());
  EXPECT_EQ(info["backends"].size(), backends().size());
  EXPECT_EQ(info["version"], version());
  EXPECT_TRUE(info["dependencies"].contains("OpenBLAS"));
  EXPECT_THAT(run("info").out, HasSubstr("SIMD targets"));
}

TEST_F(Command, OutputThatCannotBeWrittenIsBadInput) {
  const auto result = run("info --json /no/such/folder/x.json");
  EXPECT_EQ(result.exit_code, bad_input);
  EXPECT_THAT(result.errors, HasSubstr("/no/such/folder/x.json"));
}

TEST_F(Command, OutputThatCannotBeWrittenIsRefusedBeforeAnythingIsMeasured) {
  for (const std::string& command :
       {small_bench, std::string("check --quick "), std::string("plan "), std::string("calibrate "),
        std::string("calibrate --out /no/such/folder/x.json ")}) {
    expect_error_line(command + "--json /no/such/folder/x.json", bad_input, {"/no/such/folder/x.json", "written"});
  }
}

TEST_F(Command, ARefusedCommandLeavesTheOutputAsItWas) {
  const auto path = folder.write("old.json", "old");
  expect_refused(small_bench + "--simd-target avx9 --json '" + path.string() + "'", unsupported, {"avx9"});
  EXPECT_EQ(test::read_text(path), "old");
  const auto fresh = folder.path() / "new.json";
  expect_refused(small_bench + "--simd-target avx9 --json '" + fresh.string() + "'", unsupported, {"avx9"});
  EXPECT_FALSE(std::filesystem::exists(fresh));
}

TEST_F(Command, BenchHasWrittenEachCaseWhenItIsKilled) {
  std::string cases;
  for (int batch = 1; batch <= 100; ++batch) {
    cases += (batch > 1 ? "," : "") + ("{\"shared\": 0, \"unique\": 16, \"batch\": " + std::to_string(batch) + "}");
  }
  const std::string grid =
      file("many.json", R"({"schema": 1, "defaults": {"heads": [4, 2], "head_dim": 32}, "cases": [)" + cases + "]}");
  const auto written = folder.path() / "killed.json";
  // Killed once the whole of the first case's file is there; the second case takes much longer than the shell.
  run("bench --repeats 5 --strategy auto --grid " + grid + " --json '" + written.string() +
      "' & for try in $(seq 600); do grep -qs '^}' '" + written.string() +
      "' && break; sleep 0.1; done; kill -9 $!; wait $!");
  const json result = json::parse(test::read_text(written));
  ASSERT_GE(result["rows"].size(), 1u);
  EXPECT_LT(result["rows"].size(), 100u);
  EXPECT_EQ(result["rows"][0]["label"], "1 x 16");
  EXPECT_EQ(result["rows"][0]["cold_us"]["runs"], 5);
  EXPECT_EQ(result["summary"]["floor"][0]["cases"], result["rows"].size());
  EXPECT_TRUE(result["skipped"].empty());
}

TEST_F(Command, NumbersAreRefusedInTheirOwnTerms) {
  expect_refused("bench --time-limit 0", bad_input, {"--time-limit: expected a number above 0, got 0"});
  expect_refused("check --rows 0", bad_input, {"--rows: expected a number above 0, got 0"});
  expect_refused("plan --max-nodes -1", bad_input, {"--max-nodes: expected a number of at least 0, got -1"});
  for (const char* command : {"bench", "check", "replay t.jsonl", "trace generate"}) {
    expect_refused(std::string(command) + " --seed -1", bad_input, {"--seed: expected a number of at least 0, got -1"});
  }
  expect_refused("replay t.jsonl --max-requests -1", bad_input, {"--max-requests: expected a number of at least 0"});
  const json last = run_json("check --quick --rows 1 --seed 18446744073709551615 --dtype float32 --simd-target scalar");
  EXPECT_FALSE(last["rows"].empty());
}

TEST_F(Command, CheckQuickLarge) {
  const json result = run_json("check --quick --rows 8");
  EXPECT_EQ(result["rows"].size(), 3 * simd_targets().size());
  for (const json& row : result["rows"]) {
    EXPECT_TRUE(row["failed_cases"].empty()) << row.dump(1);
    EXPECT_LE(row["error_ratio"].get<double>(), 1) << row.dump(1);
    EXPECT_GT(row["error_ratio"].get<double>(), 0) << "nothing was compared";
  }
}

}  // namespace
}  // namespace trunkline
