// The options that describe a batch: one shape, or a grid of them.
#pragma once

#include <optional>
#include <string>

#include "common/grid.hpp"

namespace CLI {
class App;
}

namespace trunkline::tools {

struct ShapeOptions {
  std::string grid;          // a file; empty: one shape from the options
  std::string chosen_cases;  // of the grid, "1,3,5-8"; empty: all
  int batch = 32, shared = 4096, unique = 64;
  // Override what the grid says when given.
  std::string heads, dtype;
  std::optional<int> head_dim, page_size, qo_len;

  void add_to(CLI::App& command, bool with_grid);
  /// The grid's cases, or the one shape (named "command line"), the overrides applied and checked.
  Grid cases() const;
};

}  // namespace trunkline::tools
