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
  std::string grid;  // a file; empty: one shape from the options
  int batch = 32, shared = 4096, unique = 64;
  // Override what the grid says when given.
  std::string heads, dtype;
  std::optional<int> head_dim, page_size, qo_len;

  void add_to(CLI::App& command, bool with_grid);
  /// The grid's cases, or the one shape (named "command line"), the overrides applied and checked.
  Grid cases() const;
};

}  // namespace trunkline::tools
