// A row of `bench`, and what is said of many: tables and summaries are made from the rows' JSON alone.
#pragma once

#include <cstdio>
#include <string>

#include "common/accuracy.hpp"
#include "common/bench_options.hpp"
#include "common/floor.hpp"
#include "common/grid.hpp"
#include "common/result.hpp"
#include "common/statistics.hpp"

namespace trunkline::tools {

/// What every backend measures of one strategy on one case. Times in seconds.
struct BenchRow {
  std::string grid;
  const GridCase* shape = nullptr;
  std::string backend, kernel;
  Strategy strategy = Strategy::automatic;
  std::string page_order, kv_layout;
  Statistics cold, warm, read;
  Floor floor;
  double warm_floor_seconds = 0;
  double distinct_bytes = 0, operations = 0, share = 1;
  double plan_seconds = 0, model_seconds = 0;
  Accuracy accuracy;
};
Json to_json(const BenchRow& row);

/// What a row says of its contender whatever the backend; reads, floor and bytes are left out. A contender has a
/// strategy, an attention and a workspace with its plan, its accuracy, and samples `plan`, `cold` and `warm` in
/// seconds.
template <class Contender>
BenchRow bench_row(const std::string& grid, const GridCase& shape, const BenchOptions& options,
                   const Contender& contender) {
  BenchRow row;
  row.grid = grid;
  row.shape = &shape;
  row.backend = options.backend.backend;
  row.kernel = contender.attention.kernel();
  row.strategy = contender.strategy;
  row.page_order = options.page_order;
  row.kv_layout = options.kv_layout;
  row.cold = summarize(contender.cold);
  row.warm = summarize(contender.warm);
  row.plan_seconds = summarize(contender.plan).median;
  row.model_seconds = contender.workspace.plan().model.seconds;
  row.accuracy = contender.accuracy;
  return row;
}

/// A case that was not measured, for the result's `skipped`.
Json skipped_json(const GridCase& shape, const std::string& reason);

/// One line per row, and a remark where a row is below its floor or failed its check.
void print_bench_table(const Json& rows, std::FILE* stream);
/// One line per case that was skipped.
void print_skipped(const Json& skipped, std::FILE* stream);

/// {"floor": per kernel and strategy the cases and the geometric mean and the worst of their ratios,
///  "never_slower": per case and kernel with both, the cold medians of auto and unshared and whether auto is slower by
///  more than the larger of 3 % and 0.5 us}.
Json summarize_bench(const Json& rows);
void print_summary(const Json& summary, std::FILE* stream);

/// Throws CheckFailed when a row exceeded its error bound.
void require_correct(const Json& rows);

}  // namespace trunkline::tools
