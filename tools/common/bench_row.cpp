#include "common/bench_row.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "common/exit_codes.hpp"
#include "common/table.hpp"

namespace trunkline::tools {
namespace {

// Times below this are not told apart by the clocks, and a run's own spread is about as many percent.
constexpr double slower_us = 0.5, slower_part = 0.03;

double number(const Json& row, const char* field) { return row[field].get<double>(); }
double median(const Json& row, const char* field) { return row[field]["median"].get<double>(); }

std::string heads_of(const Json& row) {
  const Json& heads = row["case"]["heads"];
  return fmt::format("{}/{}", heads[0].get<int>(), heads[1].get<int>());
}

/// A case's name within a result.
std::string name_of(const Json& row) {
  const int qo_len = row["case"].value("qo_len", 1);
  return row["label"].get<std::string>() + (qo_len == 1 ? "" : fmt::format(", {} queries each", qo_len));
}

/// JSON has no infinity: it is written as null.
bool is_correct(const Json& row) {
  const Json& ratio = row["error_ratio"];
  return ratio.is_number() && ratio.get<double>() <= 1;
}

std::string remark(const Json& row) {
  if (!is_correct(row)) return "CHECK FAILED";
  if (number(row, "ratio") < 1) return "BELOW ITS FLOOR";
  return "";
}

}  // namespace

Json to_json(const BenchRow& row) {
  const double ratio = row.cold.median / row.floor.seconds();
  Json json;
  json["grid"] = row.grid;
  json["case"] = row.shape->fields;
  json["label"] = row.shape->label();
  json["backend"] = row.backend;
  json["kernel"] = row.kernel;
  json["strategy"] = to_string(row.strategy);
  json["dtype"] = to_string(row.shape->dtype);
  json["page_size"] = row.shape->page_size;
  json["page_order"] = row.page_order;
  json["kv_layout"] = row.kv_layout;
  json["cold_us"] = to_json(row.cold, 1e6);
  json["warm_us"] = to_json(row.warm, 1e6);
  json["floor_us"] = row.floor.seconds() * 1e6;
  json["floor_bound"] = row.floor.bound();
  json["read_us"] = to_json(row.read, 1e6);
  json["ratio"] = ratio;
  json["warm_floor_us"] = row.warm_floor_seconds * 1e6;
  json["warm_ratio"] = row.warm.median / row.warm_floor_seconds;
  json["distinct_bytes"] = static_cast<std::int64_t>(row.distinct_bytes);
  json["operations"] = row.operations;
  json["gbps"] = row.distinct_bytes / row.cold.median * 1e-9;
  json["tflops"] = row.operations / row.cold.median * 1e-12;
  json["share"] = row.share;
  json["plan_us"] = row.plan_seconds * 1e6;
  json["model_us"] = row.model_seconds * 1e6;
  json["model_ratio"] = row.model_seconds / row.cold.median;
  json["max_error"] = row.accuracy.max_error;
  json["error_bound"] = row.accuracy.error_bound;
  json["error_ratio"] = row.accuracy.worst;
  json["checked_rows"] = row.accuracy.rows;
  return json;
}

Json skipped_json(const GridCase& shape, const std::string& reason) {
  return {{"case", shape.fields}, {"label", shape.label()}, {"reason", reason}};
}

void print_bench_table(const Json& rows, std::FILE* stream) {
  using enum Table::Align;
  Table table({{"requests x tokens", left},
               {"heads", left},
               {"dtype", left},
               {"kernel", left},
               {"strategy", left},
               {"floor us"},
               {"of", left},
               {"cold us"},
               {"ratio"},
               {"warm us"},
               {"GB/s"},
               {"GFLOP/s"},
               {"share"},
               {"plan us"},
               {"model us"},
               {"model/cold"},
               {"error/bound"},
               {"", left}});
  for (const Json& row : rows) {
    const Json& error_ratio = row["error_ratio"];
    const std::string error = error_ratio.is_number() ? fmt::format("{:.2f}", error_ratio.get<double>()) : "inf";
    table.add_row({name_of(row), heads_of(row), row["dtype"], row["kernel"], row["strategy"],
                   fmt::format("{:.1f}", number(row, "floor_us")), row["floor_bound"],
                   fmt::format("{:.1f}", median(row, "cold_us")), fmt::format("{:.2f}", number(row, "ratio")),
                   fmt::format("{:.1f}", median(row, "warm_us")), fmt::format("{:.1f}", number(row, "gbps")),
                   fmt::format("{:.1f}", number(row, "tflops") * 1e3), fmt::format("{:.2f}", number(row, "share")),
                   fmt::format("{:.1f}", number(row, "plan_us")), fmt::format("{:.1f}", number(row, "model_us")),
                   fmt::format("{:.2f}", number(row, "model_ratio")), error, remark(row)});
  }
  if (!table.empty()) table.print(stream);
}

void print_skipped(const Json& skipped, std::FILE* stream) {
  for (const Json& entry : skipped) {
    fmt::print(stream, "skipped: {} heads {}: {}\n", name_of(entry), heads_of(entry),
               entry["reason"].get<std::string>());
  }
}

void require_correct(const Json& rows) {
  const auto wrong = std::count_if(rows.begin(), rows.end(), [](const Json& row) { return !is_correct(row); });
  if (wrong > 0) throw CheckFailed(fmt::format("{} rows exceeded their error bound", wrong));
}

Json summarize_bench(const Json& rows) {
  struct Ratios {
    int cases = 0;
    double logarithms = 0, worst = 0;
  };
  std::map<std::pair<std::string, std::string>, Ratios> floors;  // by kernel and strategy
  Json comparisons = Json::array();
  for (const Json& row : rows) {
    const double ratio = number(row, "ratio");
    Ratios& ratios = floors[{row["kernel"], row["strategy"]}];
    ++ratios.cases;
    ratios.logarithms += std::log(ratio);
    ratios.worst = std::max(ratios.worst, ratio);
    if (row["strategy"] != "auto") continue;
    for (const Json& other : rows) {
      if (other["strategy"] != "unshared" || other["kernel"] != row["kernel"] || other["case"] != row["case"] ||
          other["grid"] != row["grid"]) {
        continue;
      }
      const double automatic = median(row, "cold_us"), unshared = median(other, "cold_us");
      const double allowed = unshared + std::max(slower_us, slower_part * unshared);
      comparisons.push_back({{"label", name_of(row)},
                             {"heads", heads_of(row)},
                             {"kernel", row["kernel"]},
                             {"auto_us", automatic},
                             {"unshared_us", unshared},
                             {"slower", automatic > allowed}});
    }
  }
  Json summary{{"floor", Json::array()}, {"never_slower", std::move(comparisons)}};
  for (const auto& [key, ratios] : floors) {
    summary["floor"].push_back({{"kernel", key.first},
                                {"strategy", key.second},
                                {"cases", ratios.cases},
                                {"geometric_mean", std::exp(ratios.logarithms / ratios.cases)},
                                {"worst", ratios.worst}});
  }
  return summary;
}

void print_summary(const Json& summary, std::FILE* stream) {
  using enum Table::Align;
  Table floors({{"kernel", left}, {"strategy", left}, {"cases"}, {"cold/floor, geometric mean"}, {"worst"}});
  for (const Json& row : summary["floor"]) {
    floors.add_row({row["kernel"], row["strategy"], std::to_string(row["cases"].get<int>()),
                    fmt::format("{:.3f}", number(row, "geometric_mean")), fmt::format("{:.2f}", number(row, "worst"))});
  }
  if (!floors.empty()) fmt::print(stream, "\n"), floors.print(stream);
  for (const Json& row : summary["never_slower"]) {
    const double automatic = number(row, "auto_us"), unshared = number(row, "unshared_us");
    fmt::print(stream, "auto vs unshared, {} heads {} on {}: {:.1f} / {:.1f} us, {:+.1f} %{}\n",
               row["label"].get<std::string>(), row["heads"].get<std::string>(), row["kernel"].get<std::string>(),
               automatic, unshared, (automatic / unshared - 1) * 100, row["slower"].get<bool>() ? " SLOWER" : "");
  }
}

}  // namespace trunkline::tools
