// The options of `bench`, for every backend.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/options.hpp"
#include "common/problem.hpp"
#include "common/shape_options.hpp"
#include "common/synthetic_batch.hpp"

namespace CLI {
class App;
}

namespace trunkline::tools {

struct BenchOptions {
  ShapeOptions shape;
  BackendOptions backend;
  std::string strategies = "auto,unshared";
  std::string page_order = "random", kv_layout = "nhd";
  std::string max_bytes;  // default: half of the available memory on the CPU, what is free on a CUDA device
  int repeats = 0;        // 0: 9 on the CPU, 50 on a CUDA device
  int check_rows = 16;
  double time_limit = 0;  // seconds; 0: none
  std::uint64_t seed = 1;
  std::string json;
  // CUDA
  int layers = 0;     // of a chain to be timed too; 0: none
  bool host = false;  // the host's cost of a step instead

  void add_to(CLI::App& command);
  bool is_over(double seconds) const { return time_limit > 0 && seconds >= time_limit; }
  /// The shape of a case as its memory is laid out.
  ProblemShape problem_shape(const GridCase& shape) const;
};

}  // namespace trunkline::tools
