// Benchmark grids: lists of batch shapes in the format of grids/*.json.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/options.hpp"
#include "trunkline/tensor.hpp"

namespace trunkline::tools {

/// One level of a tree of batch: its nodes are spread evenly over those of the level above.
struct GridLevel {
  int num_nodes = 0;
  int tokens_per_node = 0;
};

/// A batch: a tree whose requests are its leaves, and the attention over it.
struct GridCase {
  std::vector<GridLevel> levels;
  Heads heads;
  int head_dim = 128;
  int page_size = 16;
  int qo_len = 1;
  DType dtype = DType::bfloat16;
  nlohmann::ordered_json fields;  // the case as the grid states it, for results

  int num_requests() const { return levels.back().num_nodes; }
  /// "32 x (4096 + 64)", "1, 2, 64 x 8, 256, 32".
  std::string label() const;
  /// Throws invalid_argument naming the field.
  void validate() const;
};

/// `shared` tokens that all of `batch` requests have, then `unique` of each.
GridCase make_case(int batch, int shared, int unique);

struct Grid {
  std::string name;    // of the file, without folder and suffix
  std::string source;  // where the shapes come from
  std::vector<GridCase> cases;
};

/// "1,3,5-8": numbers from 1 to `count`, ascending, each once. Throws invalid_argument naming `--cases`.
std::vector<int> parse_case_numbers(const std::string& text, int count);

/// Throws invalid_argument naming file, case number (from 1) and field.
Grid load_grid(const std::string& path);
Grid grid_from_json(const nlohmann::json& json, const std::string& name);

}  // namespace trunkline::tools
