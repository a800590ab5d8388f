// Rows, tables and summaries of `bench`, which are made from JSON alone, and the options that choose what is measured.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <string>

#include "common/bench_options.hpp"
#include "common/bench_row.hpp"
#include "common/exit_codes.hpp"
#include "trunkline/error.hpp"

namespace trunkline::tools {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

Json make_row(const char* kernel, Strategy strategy, double cold_us, double floor_us, int batch = 8) {
  GridCase shape = make_case(batch, 64, 16);
  shape.fields["heads"] = {32, 8};
  BenchRow row;
  row.grid = "some grid";
  row.shape = &shape;
  row.backend = "cuda";
  row.kernel = kernel;
  row.strategy = strategy;
  row.page_order = "random";
  row.kv_layout = "nhd";
  row.cold = {cold_us * 1e-6, cold_us * 0.9e-6, cold_us * 1.1e-6, 50};
  row.warm = {cold_us * 0.5e-6, cold_us * 0.5e-6, cold_us * 0.5e-6, 50};
  row.read = {floor_us * 1e-6, floor_us * 1e-6, floor_us * 1e-6, 50};
  row.floor = {floor_us * 1e-6, 1e-6};
  row.warm_floor_seconds = floor_us * 0.5e-6;
  row.distinct_bytes = 1e6;
  row.operations = 2e9;
  row.share = 4;
  row.plan_seconds = 12e-6;
  row.model_seconds = cold_us * 0.8e-6;
  row.accuracy = {1e-4, 2e-4, 0.5, 16};
  return to_json(row);
}

/// What a function prints.
template <class Print>
std::string printed(Print&& print) {
  std::FILE* file = std::tmpfile();
  print(file);
  std::string text(static_cast<std::size_t>(std::ftell(file)), '\0');
  std::rewind(file);
  EXPECT_EQ(std::fread(text.data(), 1, text.size(), file), text.size());
  std::fclose(file);
  return text;
}

TEST(BenchRow, HoldsWhatTheFormatDemands) {
  const Json row = make_row("cuda/sm90", Strategy::automatic, 20, 16);
  for (const char* field :
       {"grid",           "case",        "label",       "backend",     "kernel",        "strategy",
        "dtype",          "page_size",   "page_order",  "kv_layout",   "cold_us",       "warm_us",
        "floor_us",       "floor_bound", "read_us",     "ratio",       "warm_floor_us", "warm_ratio",
        "distinct_bytes", "operations",  "gbps",        "tflops",      "share",         "plan_us",
        "model_us",       "max_error",   "error_bound", "error_ratio", "checked_rows"}) {
    EXPECT_TRUE(row.contains(field)) << field;
  }
  EXPECT_DOUBLE_EQ(row["ratio"].get<double>(), 1.25);
  EXPECT_DOUBLE_EQ(row["warm_ratio"].get<double>(), 1.25);
  EXPECT_DOUBLE_EQ(row["model_ratio"].get<double>(), 0.8);
  EXPECT_DOUBLE_EQ(row["gbps"].get<double>(), 50);
  EXPECT_DOUBLE_EQ(row["tflops"].get<double>(), 100);
  EXPECT_EQ(row["floor_bound"], "bytes");
  EXPECT_EQ(row["cold_us"]["runs"], 50);
}

TEST(BenchTable, RemarksOnWhatCannotBe) {
  Json rows = Json::array({make_row("cuda/sm90", Strategy::automatic, 20, 16)});
  EXPECT_THAT(printed([&](std::FILE* file) { print_bench_table(rows, file); }),
              testing::AllOf(HasSubstr("8 x (64 + 16)"), HasSubstr("1.25"), HasSubstr("32/8"), HasSubstr("cuda/sm90"),
                             Not(HasSubstr("FLOOR")), Not(HasSubstr("FAILED"))));
  EXPECT_NO_THROW(require_correct(rows));
  rows.push_back(make_row("cuda/sm90", Strategy::unshared, 15, 16));
  EXPECT_THAT(printed([&](std::FILE* file) { print_bench_table(rows, file); }), HasSubstr("BELOW ITS FLOOR"));
  EXPECT_NO_THROW(require_correct(rows));
  for (const Json& wrong : {Json(1.5), Json(std::numeric_limits<double>::infinity()), Json(std::nan("")), Json()}) {
    rows[0]["error_ratio"] = wrong;
    EXPECT_THAT(printed([&](std::FILE* file) { print_bench_table(rows, file); }), HasSubstr("CHECK FAILED"));
    EXPECT_THROW(require_correct(rows), CheckFailed);
  }
}

TEST(BenchSummary, GeometricMeansByKernelAndStrategy) {
  Json rows = Json::array();
  rows.push_back(make_row("cuda/sm90", Strategy::automatic, 20, 10, 8));
  rows.push_back(make_row("cuda/sm90", Strategy::automatic, 80, 10, 9));
  rows.push_back(make_row("cuda/sm80", Strategy::automatic, 30, 10, 8));
  const Json summary = summarize_bench(rows);
  ASSERT_EQ(summary["floor"].size(), 2u);
  EXPECT_EQ(summary["floor"][0]["kernel"], "cuda/sm80");
  EXPECT_DOUBLE_EQ(summary["floor"][0]["geometric_mean"].get<double>(), 3);
  EXPECT_EQ(summary["floor"][1]["cases"], 2);
  EXPECT_NEAR(summary["floor"][1]["geometric_mean"].get<double>(), 4, 1e-12);
  EXPECT_DOUBLE_EQ(summary["floor"][1]["worst"].get<double>(), 8);
  EXPECT_TRUE(summary["never_slower"].empty());
  EXPECT_TRUE(summarize_bench(Json::array())["floor"].empty());
}

TEST(BenchSummary, AutoIsComparedWithUnsharedOfItsOwnCaseAndKernel) {
  const auto slower = [](double automatic, double unshared) {
    Json rows = Json::array();
    rows.push_back(make_row("cuda/sm90", Strategy::automatic, automatic, 1, 8));
    rows.push_back(make_row("cuda/sm90", Strategy::unshared, 1, 1, 9));   // another case
    rows.push_back(make_row("cuda/sm80", Strategy::unshared, 1, 1, 8));   // another kernel
    rows.push_back(make_row("cuda/sm90", Strategy::two_phase, 1, 1, 8));  // another strategy
    rows.push_back(make_row("cuda/sm90", Strategy::unshared, unshared, 1, 8));
    const Json summary = summarize_bench(rows);
    EXPECT_EQ(summary["never_slower"].size(), 1u);
    const Json& one = summary["never_slower"][0];
    EXPECT_NEAR(one["unshared_us"].get<double>(), unshared, 1e-9);
    const std::string text = printed([&](std::FILE* file) { print_summary(summary, file); });
    EXPECT_THAT(text, HasSubstr("auto vs unshared, 8 x (64 + 16) heads 32/8 on cuda/sm90"));
    EXPECT_EQ(text.find("SLOWER") != std::string::npos, one["slower"].get<bool>());
    return one["slower"].get<bool>();
  };
  EXPECT_FALSE(slower(90, 100));
  EXPECT_FALSE(slower(102.9, 100));  // 3 % of many
  EXPECT_TRUE(slower(103.1, 100));
  EXPECT_FALSE(slower(5.4, 5));  // 0.5 us of few
  EXPECT_TRUE(slower(5.6, 5));
}

TEST(BenchSkipped, NamesCaseAndReason) {
  GridCase shape = make_case(4, 64, 16);
  shape.fields["heads"] = {32, 8};
  shape.fields["qo_len"] = 3;
  const Json skipped = Json::array({skipped_json(shape, "it is too large")});
  EXPECT_EQ(printed([&](std::FILE* file) { print_skipped(skipped, file); }),
            "skipped: 4 x (64 + 16), 3 queries each heads 32/8: it is too large\n");
}

TEST(BenchOptions, CasesByNumber) {
  EXPECT_THAT(parse_case_numbers("3", 5), ElementsAre(3));
  EXPECT_THAT(parse_case_numbers("5,1-3,2", 5), ElementsAre(1, 2, 3, 5));
  for (const char* bad : {"0", "6", "1-6", "3-2", "a", "1,,2", "-1", "1-", " 1", "99999999999"}) {
    EXPECT_THROW(parse_case_numbers(bad, 5), Error) << bad;
  }
}

/// The grids that the project is measured on, beside the source tree; and those in it.
TEST(BenchOptions, EveryGridParses) {
  const std::filesystem::path root = TRUNKLINE_SOURCE_DIR;
  int cases = 0;
  for (const auto& folder : {root / "bench/grids", root / "../shared/grids"}) {
    if (!std::filesystem::exists(folder)) continue;
    for (const auto& file : std::filesystem::directory_iterator(folder)) {
      if (file.path().stem() == "tk_port_correctness") continue;  // a product of values, not a list of cases
      const Grid grid = load_grid(file.path().string());
      EXPECT_FALSE(grid.cases.empty()) << file.path();
      for (const GridCase& shape : grid.cases) {
        const SyntheticBatch batch(paths_of(shape), {shape.qo_len}, shape.page_size, PageOrder::sequential, 1);
        EXPECT_LT(batch.num_pages() * Problem::page_bytes(BenchOptions().problem_shape(shape)), std::int64_t{139} << 30)
            << file.path() << " " << shape.label();
        ++cases;
      }
    }
  }
  EXPECT_GE(cases, 16);
}

TEST(BenchOptions, KernelsAndCtas) {
  EXPECT_THAT(parse_kernels("sm90,sm80,sm90"), ElementsAre("sm90", "sm80"));
  for (const char* bad : {"", ",", "sm90,", ",sm90"}) EXPECT_THROW(parse_kernels(bad), Error) << bad;
  BackendOptions options;
  ASSERT_EQ(options.executions().size(), 1u);
  EXPECT_EQ(options.executions()[0].kernel, "");
  options.kernels = "sm80,sm90";
  options.num_ctas = 96;
  const auto executions = options.executions();
  ASSERT_EQ(executions.size(), 2u);
  EXPECT_EQ(executions[1].kernel, "sm90");
  EXPECT_EQ(executions[1].num_ctas, 96);
}

TEST(BenchOptions, TimeLimit) {
  BenchOptions options;
  EXPECT_FALSE(options.is_over(1e9));
  options.time_limit = 2;
  EXPECT_FALSE(options.is_over(1.9));
  EXPECT_TRUE(options.is_over(2));
}

}  // namespace
}  // namespace trunkline::tools
