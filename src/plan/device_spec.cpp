// Shipped device facts. `calibrate` replaces them by measurements of the machine at hand.
#include "trunkline/config.hpp"

namespace trunkline {

DeviceSpec DeviceSpec::h200() {
  DeviceSpec spec;
  spec.name = "NVIDIA H200";
  spec.num_workers = 132;  // SMs, one resident thread block each
  spec.token_granule = 64;  // a stage
  // Two consumer warpgroups with two 64-row wgmma tiles each. 785e12: cuBLAS, bf16, 8192 cubed, random data.
  spec.wide = {.max_rows = 128, .row_granule = 64, .flops = 640e12, .item_seconds = 1.5e-6};
  // One warpgroup, 64 tokens by 8 to 32 rows. At 32 rows the lane has to keep up with the memory: 32 operations per
  // byte at 4.72 TB/s are 151e12 per second; 200e12 is a quarter of the wide lane's rate and leaves room for the
  // softmax. item_seconds: a stage of 32 KiB takes a worker 32768 / (4.72e12 / 132) = 0.92 us, and an item fills its
  // last stage and the first of the next only partly.
  spec.narrow = {.max_rows = 16, .row_granule = 8, .flops = 120e12, .item_seconds = 0.3e-6};
  spec.lanes_overlap = true;
  spec.overlap_penalty = 0.2;     // products of 1.99 ms beside reads of 1.53 ms took 2.3 to 2.5 ms: 15 to 27 % more
  spec.read_bandwidth = 4.72e12;  // bulk copies, 4 GiB
  spec.worker_bandwidth = 98e9;   // 96 KiB in flight, about 1 us to memory and back
  spec.partial_bandwidth = 5e12;  // through L2, whose limit 650e12 operations at 128 rows come near
  spec.cache_bytes = 60e6;        // L2
  spec.merge_seconds = 0.1e-6;    // one round trip to L2 for the partials and the store of the result
  spec.phase_seconds = 3e-6;    // arrival of the last worker and its being seen by the others, two round trips
  spec.launch_seconds = 6e-6;   // intercept of the back-to-back model, 1.9 us + bytes / 4.72 TB/s
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
