// `trunkline check`: the correctness grids on this machine, every kernel against the double-precision reference.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <memory>
#include <optional>

#include "commands/commands.hpp"
#include "common/check_grids.hpp"
#include "common/exit_codes.hpp"
#include "common/progress.hpp"
#include "common/result.hpp"
#include "common/table.hpp"
#include "common/validators.hpp"
#include "cuda/mirror.hpp"
#include "trunkline/error.hpp"
#include "trunkline/system.hpp"

namespace trunkline::tools {
namespace {

struct Options {
  BackendOptions backend;
  std::string dtype;  // empty: all
  bool quick = false;
  int rows = 48;
  std::uint64_t seed = 1;
  std::string json;
};

constexpr DType every_dtype[] = {DType::float32, DType::float16, DType::bfloat16};
constexpr Strategy every_strategy[] = {Strategy::automatic, Strategy::unshared, Strategy::two_phase,
                                       Strategy::hydragen};

/// The worst of one kernel and dtype.
struct Verdict {
  Accuracy accuracy;
  int cases = 0;
  std::string worst_case;
  std::vector<std::string> failed_cases;
};
/// What a kernel does not cover, by its own words.
using Refusals = std::map<std::string, int>;
using Verdicts = std::map<std::pair<std::string, DType>, Verdict>;

class Checker {
 public:
  explicit Checker(const Options& options)
      : options_(options), device_(options.backend.device()), executions_(options.backend.executions()) {
    if (options.backend.simd_target.empty() && device_.kind == DeviceKind::cpu) {
      executions_.assign(simd_targets().size(), options.backend.execution());
      for (std::size_t i = 0; i < executions_.size(); ++i) executions_[i].simd_target = simd_targets()[i];
    }
    if (!options.dtype.empty()) dtypes_ = {dtype_from_string(options.dtype)};
  }

  void check(const CheckCase& one) {
    for (DType dtype : dtypes_) {
      if (one.own_dtype_only && options_.dtype.empty() && dtype != one.shape.dtype) continue;
      ProblemShape shape = one.shape;
      shape.dtype = dtype;
      check(one, shape);
    }
    ++num_cases_;
  }

  const Verdicts& verdicts() const { return verdicts_; }
  const Refusals& refusals() const { return refusals_; }

 private:
  void check(const CheckCase& one, const ProblemShape& shape) {
    const SyntheticBatch batch(one.paths, one.qo_lens, shape.page_size, PageOrder::random, options_.seed);
    const Forest forest = batch.forest();
    Problem problem(shape, forest.num_query_tokens(), batch.num_pages(), options_.seed);
    problem.poison_unused_slots(batch.page_tokens);
    const Oracle oracle(problem.computed(batch.tables(), batch.seq_lens, batch.qo_lens), options_.rows, options_.seed);
    const Capacity capacity{batch.num_requests(), std::max(static_cast<int>(forest.num_query_tokens()), 1),
                            std::max(batch.max_pages, 1)};
    std::optional<cuda::Mirror> mirror;
    if (device_.kind == DeviceKind::cuda) mirror.emplace(problem);
    for (const ExecutionOptions& execution : executions_) {
      // Every case with what users run, and in turn with one of the others.
      for (Strategy strategy : {Strategy::automatic, every_strategy[1 + num_cases_ % 3]}) {
        const std::optional<Attention> attention = make_attention(problem.config(strategy), capacity, execution);
        if (!attention) continue;
        problem.poison_results();
        if (mirror) {
          mirror->run(*attention, forest);
        } else {
          Workspace workspace(*attention);
          attention->plan(forest, workspace);
          attention->run(workspace, problem.q, problem.kv.view, problem.out, problem.lse);
        }
        record(attention->kernel(), shape.dtype, oracle.compare(attention->lse_bound_factor()),
               fmt::format("{}, {}", one.name, to_string(strategy)));
      }
    }
  }

  /// Nothing for what a CUDA kernel refuses; the CPU covers every case.
  std::optional<Attention> make_attention(const AttentionConfig& config, const Capacity& capacity,
                                          const ExecutionOptions& execution) {
    try {
      return Attention(config, capacity, device_, execution);
    } catch (const Error& error) {
      if (device_.kind == DeviceKind::cpu || error.code() != ErrorCode::unsupported) throw;
      ++refusals_[error.what()];
      return std::nullopt;
    }
  }

  void record(const std::string& kernel, DType dtype, const Accuracy& accuracy, const std::string& name) {
    Verdict& verdict = verdicts_[{kernel, dtype}];
    if (verdict.cases == 0 || accuracy.worst > verdict.accuracy.worst) verdict.worst_case = name;
    verdict.accuracy.merge(accuracy);
    ++verdict.cases;
    if (!accuracy.ok()) verdict.failed_cases.push_back(name);
  }

  const Options& options_;
  Device device_;
  std::vector<ExecutionOptions> executions_;
  std::vector<DType> dtypes_{std::begin(every_dtype), std::end(every_dtype)};
  std::size_t num_cases_ = 0;
  Verdicts verdicts_;
  Refusals refusals_;
};

void run_check(const Options& options) {
  Checker checker(options);
  Result result("check", options.json);
  int total = 0, done = 0;
  for_each_check_case(options.quick, [&](const CheckCase&) { ++total; });
  {
    Progress progress("check", total);
    for_each_check_case(options.quick, [&](const CheckCase& one) {
      progress.update(done++, one.name);
      checker.check(one);
    });
  }
  using enum Table::Align;
  Table table({{"kernel", left},
               {"dtype", left},
               {"runs"},
               {"rows"},
               {"worst error"},
               {"its bound"},
               {"error/bound"},
               {"", left},
               {"where", left}});
  std::size_t failed = 0;
  for (const auto& [key, verdict] : checker.verdicts()) {
    const Accuracy& accuracy = verdict.accuracy;
    table.add_row({key.first, to_string(key.second), std::to_string(verdict.cases), std::to_string(accuracy.rows),
                   fmt::format("{:.2e}", accuracy.max_error), fmt::format("{:.2e}", accuracy.error_bound),
                   fmt::format("{:.2f}", accuracy.worst), verdict.failed_cases.empty() ? "ok" : "FAILED",
                   verdict.worst_case});
    result.add_row({{"kernel", key.first},
                    {"dtype", to_string(key.second)},
                    {"cases", verdict.cases},
                    {"failed_cases", verdict.failed_cases},
                    {"checked_rows", accuracy.rows},
                    {"max_error", accuracy.max_error},
                    {"error_bound", accuracy.error_bound},
                    {"error_ratio", accuracy.worst},
                    {"worst_case", verdict.worst_case}});
    failed += verdict.failed_cases.size();
  }
  table.print(text_stream(options.json));
  result["refused"] = Json::array();
  for (const auto& [reason, runs] : checker.refusals()) {
    fmt::print(text_stream(options.json), "refused, {} runs: {}\n", runs, reason);
    result["refused"].push_back({{"reason", reason}, {"runs", runs}});
  }
  result.write();
  if (failed > 0) throw CheckFailed(fmt::format("{} runs exceeded their error bound", failed));
  if (checker.verdicts().empty()) throw CheckFailed("no case was run: every one was refused");
}

}  // namespace

void add_check_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("check", "Run the correctness grids on this machine's kernels and print the worst errors");
  options->backend.add_to(*command);
  command->add_flag("--quick", options->quick, "a few seconds' worth of the grids");
  command->add_option("--dtype", options->dtype, "float32, float16 or bfloat16 [all]");
  command->add_option("--rows", options->rows, "rows of a case held against the reference")
      ->check(positive())
      ->capture_default_str();
  command->add_option("--seed", options->seed, "of the random data")->check(non_negative())->capture_default_str();
  add_json_option(*command, options->json);
  command->callback([options] { run_check(*options); });
}

}  // namespace trunkline::tools
