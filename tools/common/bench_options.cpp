#include "common/bench_options.hpp"

#include <CLI/CLI.hpp>

#include "common/validators.hpp"

namespace trunkline::tools {

void BenchOptions::add_to(CLI::App& command) {
  shape.add_to(command, true);
  backend.add_to(command);
  command.add_option("--strategy", strategies, "auto, unshared, two_phase, hydragen, several or all")
      ->capture_default_str();
  command.add_option("--repeats,--runs", repeats, "runs of each [9; 50 with --backend cuda]")
      ->check(CLI::Range(1, 100000));
  command.add_option("--time-limit", time_limit, "seconds after which no further case is begun")->check(positive());
  command.add_option("--page-order", page_order, "where pages lie: random or sequential")->capture_default_str();
  command.add_option("--kv-layout", kv_layout, "nhd or hnd")->capture_default_str();
  command.add_option("--max-bytes", max_bytes, "skip cases whose KV takes more [half of the free memory]");
  command.add_option("--check-rows", check_rows, "rows of each case held against the reference")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  command.add_option("--seed", seed, "of KV, q and page order")->check(non_negative())->capture_default_str();
  command.add_option("--layers", layers, "cuda: time a chain of this many runs in one graph too")
      ->check(CLI::Range(2, 1024));
  command.add_flag("--host", host, "cuda: measure the host's cost of a decode step instead");
  add_json_option(command, json);
}

ProblemShape BenchOptions::problem_shape(const GridCase& one) const {
  return {one.heads, one.head_dim, one.page_size, one.dtype, kv_layout_from_string(kv_layout)};
}

}  // namespace trunkline::tools
