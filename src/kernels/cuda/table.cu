#include "kernels/cuda/table.hpp"

#include "kernels/cuda/launch.cuh"

namespace trunkline::kernels::cuda {
namespace {

constexpr int threads = 128;

// The first blocks take an entry per thread, the others a run each.
__global__ void __launch_bounds__(threads)
    write_runs(std::int32_t* __restrict__ table, const TableRun* __restrict__ singles, int num_singles,
               int single_blocks, const TableRun* __restrict__ runs, const std::int32_t* __restrict__ values) {
  const int block = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  if (block < single_blocks) {
    const int i = block * threads + thread;
    if (i < num_singles) table[singles[i].index] = singles[i].first;
    return;
  }
  const TableRun run = runs[block - single_blocks];
#pragma unroll 4  // loads over the bus: several in flight
  for (int i = thread; i < run.count; i += threads) table[run.index + i] = values[run.first + i];
}

}  // namespace

int prepare_table() {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, write_runs);
}

int write_table(std::int32_t* table, const TableRun* singles, int num_singles, const TableRun* runs, int num_runs,
                const std::int32_t* values, void* stream) {
  const int single_blocks = (num_singles + threads - 1) / threads;
  const LaunchShape shape{dim3(static_cast<unsigned>(single_blocks + num_runs)), dim3(threads)};
  return launch(write_runs, shape, stream, table, singles, num_singles, single_blocks, runs, values);
}

}  // namespace trunkline::kernels::cuda
