// Compiles the partial-state algebra for the device.
#include "merge/state.hpp"

namespace trunkline::merge {

/// One thread per element of out: grid covers num_rows * head_dim.
__global__ void merge_elements(const float* out_a, const float* lse_a, const float* out_b, const float* lse_b,
                               float* out, float* lse, int num_rows, int head_dim) {
  const int element = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (element >= num_rows * head_dim) return;
  const int row = element / head_dim;
  const Weights w = weights(lse_a[row], lse_b[row]);
  out[element] = combine(w, out_a[element], out_b[element]);
  if (element % head_dim == 0) lse[row] = w.lse;
}

}  // namespace trunkline::merge
