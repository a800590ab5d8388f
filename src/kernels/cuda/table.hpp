// Brings a block table in device memory up to date.
#pragma once

#include <cstdint>

namespace trunkline::kernels::cuda {

/// Entries [index, index + count) of a table. count 1: `first` is the value; more: it is the place of the values in an
/// array of them.
struct alignas(16) TableRun {
  std::int64_t index;
  std::int32_t count;
  std::int32_t first;
};

/// Loads the kernel onto the current device, which its first launch would otherwise do, and perhaps wait for. Returns a
/// cudaError_t.
int prepare_table();

/// Runs of one entry, and runs of several with their values. All three arrays may lie in pinned host memory. `stream`
/// is a cudaStream_t; returns a cudaError_t.
int write_table(std::int32_t* table, const TableRun* singles, int num_singles, const TableRun* runs, int num_runs,
                const std::int32_t* values, void* stream);

}  // namespace trunkline::kernels::cuda
