// Shipped device facts. `calibrate` replaces them by measurements of the machine at hand.
#include "trunkline/config.hpp"

namespace trunkline {

// Fitted to 877 cold times of the Hopper kernel at commit 82daf86: `auto` on the grids of decode, ChunkAttention,
// Hydragen, FastTree, PAT and the ThunderKittens port with the plans of four sets of facts, so that plans that are not
// chosen are priced as they are, too, and on five small batches with one. What `auto` is modelled at beside what it
// takes stands in docs/benchmarks/. A cold run includes what the model does not see apart: the launch and the chains of
// loads at the start, behind an emptied L2. Unshared reads of the same pages come from L2 in part: the model takes them
// for 1.3 to 1.8 times as long as they are.
DeviceSpec DeviceSpec::h200() {
  DeviceSpec spec;
  spec.name = "NVIDIA H200";
  spec.num_workers = 132;   // SMs, one resident thread block each
  spec.token_granule = 64;  // a stage
  spec.packed_rows = 8;     // that the narrow consumer computes at once whether they are there or not
  spec.packed_tokens = 96;
  // Two consumer warpgroups of 64 rows each; products alone reach 785e12 (cuBLAS, 8192 cubed, random data). One takes
  // as long alone: its own chain bounds it.
  spec.wide = {.max_rows = 128, .row_granule = 128, .flops = 680e12, .item_seconds = 0.3e-6, .masked_seconds = 2e-6};
  spec.paired_flops = 720e12;  // half of the reads of the L2 cache
  // One warpgroup, 64 tokens by 8 or 16 rows: it keeps up with the memory, not with the last-level cache. Its tiles
  // form one stream, so that an item costs little beside them.
  spec.narrow = {.max_rows = 16, .row_granule = 8, .flops = 70e12, .item_seconds = 0.2e-6};
  spec.lanes_overlap = true;
  spec.overlap_penalty = 0.55;    // alone, products of 1.99 ms beside reads of 1.53 ms took 15 to 27 % more; here the
                                  // lanes share issue slots and shared memory too
  spec.read_bandwidth = 4.3e12;   // pages of 16 tokens in random order; 4.72e12 linearly
  spec.worker_bandwidth = 130e9;  // 96 KiB in flight, about 0.75 us to memory and back
  spec.partial_bandwidth = 3.8e12;
  spec.cache_bytes = 60e6;  // L2
  spec.merge_seconds = 0.05e-6;
  spec.source_seconds = 0.02e-6;  // four in about 140 cycles
  spec.phase_seconds = 3.2e-6;    // until all see the last CTA and know what to merge
  spec.launch_seconds = 7.3e-6;
  return spec;
}

DeviceSpec DeviceSpec::generic_cpu(int num_workers) {
  DeviceSpec spec;
  spec.name = "generic CPU";
  spec.num_workers = num_workers;
  // Many rows: panels of f32 products at about two 8-wide multiply-adds per cycle at 3 GHz. Few rows: one pass over K
  // and V per row granule, bound by conversions and by the loads of the cache lines.
  spec.wide = {.max_rows = 256, .row_granule = 16, .flops = 100e9 * num_workers, .item_seconds = 1e-6};
  spec.narrow = {.max_rows = 8, .row_granule = 1, .flops = 40e9 * num_workers, .item_seconds = 1e-6};
  spec.lanes_overlap = false;
  spec.read_bandwidth = 12e9 * num_workers;  // a server core with its share of the memory channels
  spec.worker_bandwidth = 12e9;
  spec.partial_bandwidth = 20e9 * num_workers;  // second- and third-level cache
  spec.cache_bytes = 32e6;
  spec.merge_seconds = 0.3e-6;
  spec.phase_seconds = 5e-6;   // a barrier of a thread pool
  spec.launch_seconds = 5e-6;  // waking it
  return spec;
}

}  // namespace trunkline
