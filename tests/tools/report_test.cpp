// The HTML report: complete, and readable without a network.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "tools/run_command.hpp"
#include "tools/trace_files.hpp"

namespace trunkline {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class Report : public testing::Test {
 protected:
  static std::string sample(const std::string& name) {
    return std::string("'") + TRUNKLINE_SOURCE_DIR + "/tests/tools/" + name + "'";
  }
  std::string page() const { return (folder.path() / "page.html").string(); }
  test::CommandResult report(const std::string& arguments) const {
    return test::run_command("report -o '" + page() + "' " + arguments, folder.path());
  }
  static nlohmann::json sample_json(const std::string& name) {
    return nlohmann::json::parse(test::read_text(std::string(TRUNKLINE_SOURCE_DIR) + "/tests/tools/" + name));
  }
  test::TemporaryFolder folder;
};

#define TRUNKLINE_SKIP_WITHOUT_MATPLOTLIB(result)                                                 \
  if ((result).exit_code == 3 && (result).errors.find("python3-matplotlib") != std::string::npos) \
  GTEST_SKIP() << "Matplotlib is not installed"

void expect_self_contained(const std::string& html) {
  for (const char* reference : {"http:", "https:", "<script", "<link", "<img", "@import", "src=", "url(\"", "url('"}) {
    EXPECT_THAT(html, Not(HasSubstr(reference)));
  }
}

TEST_F(Report, BenchPageHasEveryPicture) {
  const auto result = report("--title 'A & B' " + sample("report_bench.json"));
  TRUNKLINE_SKIP_WITHOUT_MATPLOTLIB(result);
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  EXPECT_EQ(result.out, page() + "\n");
  EXPECT_EQ(result.errors, "");
  const std::string html = test::read_text(page());
  for (const char* part :
       {"<title>A &amp; B</title>", "aria-label=\"ratio\"", "aria-label=\"cold\"", "aria-label=\"speedup\"",
        "aria-label=\"error\"", "32 × (0 + 1088)", "Example CPU 2.6 GHz", "0123456789ab", "trunkline bench --grid"}) {
    EXPECT_THAT(html, HasSubstr(part));
  }
  expect_self_contained(html);
}

TEST_F(Report, ReplayPageHasEveryPicture) {
  const auto result = report(sample("report_replay.json") + " " + sample("report_bench.json"));
  TRUNKLINE_SKIP_WITHOUT_MATPLOTLIB(result);
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  const std::string html = test::read_text(page());
  for (const char* part :
       {"aria-label=\"share\"", "aria-label=\"kv-bytes\"", "aria-label=\"batch\"", "aria-label=\"pool\"",
        "aria-label=\"latency-over-time\"", "aria-label=\"latency\"", "aria-label=\"speedup-replay\"",
        "aria-label=\"ratio-replay\"", "aria-label=\"error-replay\"", "aria-label=\"forest\"", "aria-label=\"ratio\"",
        "conversation_trace.jsonl", "two_phase"}) {
    EXPECT_THAT(html, HasSubstr(part));
  }
  expect_self_contained(html);
}

TEST_F(Report, HostPagesHaveEveryPicture) {
  const std::string summary = R"({"median": 20.5, "p10": 19, "p90": 44, "runs": 200})";
  const std::string step = folder
                               .write("step.json", R"({"schema": 1, "kind": "host", "rows": [{"label": "256 x 8192",
      "kernel": "cuda/sm90", "strategy": "auto", "advance_us": )" +
                                                       summary + R"(, "plan_us": )" + summary + R"(, "host_us": )" +
                                                       summary + R"(, "layers": 32,
      "step_us": 1500.5, "step_without_planning_us": 1499}]})")
                               .string();
  const std::string program =
      folder
          .write("program.json", R"({"context": {"executable": "bench/plan_bench", "num_cpus": 2},
      "benchmarks": [
        {"name": "BM_Plan/256_mean", "run_name": "BM_Plan/256", "aggregate_name": "mean", "real_time": 9.5, "time_unit": "us"},
        {"name": "BM_Plan/256_median", "run_name": "BM_Plan/256", "aggregate_name": "median", "real_time": 7250, "time_unit": "ns"},
        {"name": "BM_Plan/256_stddev", "run_name": "BM_Plan/256", "aggregate_name": "stddev", "real_time": 500, "time_unit": "ns"},
        {"name": "BM_Once", "real_time": 3, "time_unit": "ms"}]})")
          .string();
  const auto result = report("'" + step + "' '" + program + "'");
  TRUNKLINE_SKIP_WITHOUT_MATPLOTLIB(result);
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  const std::string html = test::read_text(page());
  for (const char* part :
       {"aria-label=\"host\"", "aria-label=\"program\"", "256 × 8192", "plan and copies", "20.5 µs", "44 µs", "1.5 ms",
        "BM_Plan/256", "7.25 µs", "BM_Once", "3 ms", "bench/plan_bench, 2 cores"}) {
    EXPECT_THAT(html, HasSubstr(part));
  }
  EXPECT_THAT(html, Not(HasSubstr("9.5 µs")));  // medians, not means
  expect_self_contained(html);
}

TEST_F(Report, ResultsOfPythonsBenchAreDrawn) {
  std::string files;
  for (const char* name : {"attention", "generate", "host"}) {
    files += std::string(" '") + TRUNKLINE_SOURCE_DIR + "/docs/benchmarks/python_cpu_" + name + ".json'";
  }
  const auto result = report(files);
  TRUNKLINE_SKIP_WITHOUT_MATPLOTLIB(result);
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  const std::string html = test::read_text(page());
  for (const char* part :
       {"aria-label=\"ratio\"", "torch/sdpa-flash", "packed", "<td>–</td>", "aria-label=\"generate\"",
        "16 × (1024 + 16)", "transformers", "aria-label=\"host\"", "run(q, kv, out)"}) {
    EXPECT_THAT(html, HasSubstr(part));
  }
  expect_self_contained(html);
}

TEST_F(Report, SkippedCasesStandUnderTheirReason) {
  auto bench = sample_json("report_bench.json");
  const nlohmann::json heads = {{"heads", {32, 8}}};
  bench["skipped"] = {{{"case", heads}, {"label", "64 x 512"}, {"reason", "the time limit was reached"}},
                      {{"case", heads}, {"label", "9 x 8192"}, {"reason", "its KV takes 9 GiB"}},
                      {{"case", heads}, {"label", "64 x 1024"}, {"reason", "the time limit was reached"}}};
  const auto result = report("'" + folder.write("bench.json", bench.dump()).string() + "'");
  TRUNKLINE_SKIP_WITHOUT_MATPLOTLIB(result);
  ASSERT_EQ(result.exit_code, 0) << result.errors;
  const std::string html = test::read_text(page());
  EXPECT_THAT(html, HasSubstr("Skipped, the time limit was reached: 64 × 512, 32/8; 64 × 1024, 32/8."));
  EXPECT_THAT(html, HasSubstr("Skipped, its KV takes 9 GiB: 9 × 8192, 32/8."));
}

TEST_F(Report, OtherSchemasAndKindsAreRefused) {
  auto bench = sample_json("report_bench.json");
  const auto expect_refused = [&](const std::string& message) {
    const auto result = report("'" + folder.write("changed.json", bench.dump()).string() + "'");
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_THAT(result.errors, HasSubstr("changed.json: expected " + message));
    EXPECT_FALSE(std::filesystem::exists(page()));
  };
  bench["schema"] = 7;
  expect_refused("schema 1, got 7");
  bench.erase("schema");
  expect_refused("schema 1, got none");
  bench["schema"] = 1;
  bench["kind"] = "plan";
  expect_refused("a result of kind bench, replay, host or generate, got \"plan\"");
}

TEST_F(Report, WhatIsNoResultIsRefused) {
  EXPECT_EQ(report("'/no/such/file.json'").exit_code, 2);
  const auto other = report("'" + folder.write("other.json", "{\"nodes\": []}").string() + "'");
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_THAT(other.errors, HasSubstr("other.json"));
  const auto broken = report("'" + folder.write("broken.json", "{\"rows\": [").string() + "'");
  EXPECT_EQ(broken.exit_code, 2);
  EXPECT_THAT(broken.errors, HasSubstr("JSON"));
  const auto incomplete = report(
      "'" +
      folder.write("incomplete.json", R"({"schema": 1, "kind": "bench", "rows": [{"strategy": "auto"}]})").string() +
      "'");
  TRUNKLINE_SKIP_WITHOUT_MATPLOTLIB(incomplete);
  EXPECT_EQ(incomplete.exit_code, 2);
  EXPECT_THAT(incomplete.errors, HasSubstr("incomplete"));
  EXPECT_FALSE(std::filesystem::exists(page()));
}

TEST_F(Report, MissingPythonNamesThePackage) {
  const auto result = report("--python /no/such/python " + sample("report_bench.json"));
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.errors, HasSubstr("apt-get install python3-matplotlib"));
}

}  // namespace
}  // namespace trunkline
