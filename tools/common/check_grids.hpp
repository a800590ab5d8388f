// The correctness grids: the published systems' own, and the corners none of them tested.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/problem.hpp"
#include "common/synthetic_batch.hpp"

namespace trunkline::tools {

struct CheckCase {
  std::string name;  // "chunk_attention: 32 x (1000 + 1000), page 64"
  ProblemShape shape;
  std::vector<Path> paths;
  std::vector<std::int32_t> qo_lens = {1};
  bool own_dtype_only = false;  // otherwise the case is run in every dtype
};

/// Calls `visit` with every case, in a fixed order. `quick` leaves out the large ones and thins the wide grid.
void for_each_check_case(bool quick, const std::function<void(const CheckCase&)>& visit);

}  // namespace trunkline::tools
