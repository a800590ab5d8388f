// A plan as the one block of memory that CUDA kernels read (kernels/cuda_params.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "exec/executor.hpp"
#include "kernels/cuda_params.hpp"

namespace trunkline::exec::cuda {

/// The most bytes that a plan within the sizes' limits takes. Throws invalid_argument beyond 4 GiB.
std::size_t plan_block_bytes(const WorkspaceSizes& sizes);

/// Writes plans. Keeps its memory, so that writing allocates nothing.
class PlanBlock {
 public:
  PlanBlock() = default;
  explicit PlanBlock(const WorkspaceSizes& sizes);

  /// Writes the plan, which is within the limits, and returns the bytes it took. `table` is the forest's; `row_of` maps
  /// its rows to those of the table that kernels read; empty: they are the same.
  std::size_t write(const Plan& plan, const Forest::Table& table, std::span<const std::int32_t> row_of,
                    std::byte* block);

 private:
  void index_runs(const Plan& plan);
  std::int32_t first_q(const Plan& plan, std::int32_t row_begin, std::int32_t row_end) const;

  bool scheduled_ = false;
  int group_size_ = 1, page_size_ = 1;
  std::vector<std::int32_t> tiles_;    // of each CTA's wide lane, then of the narrow ones
  std::vector<std::int32_t> run_end_;  // of each query token: one past the last of those whose rows of q follow its own
};

}  // namespace trunkline::exec::cuda
