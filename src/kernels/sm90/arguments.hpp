// What a launch works on, in constant memory.
#pragma once

#include <cstdint>

#include "kernels/cuda/divisor.hpp"
#include "kernels/cuda_params.hpp"

namespace trunkline::kernels::sm90 {

struct Arguments {
  CudaParams params;
  cuda::Divisor group, heads, page;  // by group_size, num_kv_heads and page_size
  float scale_log2;                  // scale * log2(e), any sign
  std::uint32_t q_sign;              // flips the signs of two elements of q where the scale is negative, else 0
  std::int32_t q_box_rows;           // of one copy of q: group_size is a multiple
  std::int32_t box_shift;            // log2 of the tokens of one copy of KV, 3 to 6; 0 for the general instance
  // 16: the general instance copies 16 bytes at once; else rows of KV are not aligned to that.
  std::int32_t gather_bytes;
};

}  // namespace trunkline::kernels::sm90
