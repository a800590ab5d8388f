// The instances of the kernel, one source file per element type and head_dim.
#pragma once

#include <cuda.h>

#include "kernels/sm90/arguments.hpp"

namespace trunkline::kernels::sm90 {

/// T: __half or __nv_bfloat16; head_dim: 64 or 128; general: any page size, strides
/// and alignment; else pages are whole boxes for the copy engine, and rows of q and out lie at multiples of 16 bytes.
template <class T, int head_dim, bool general>
struct Instance {
  static int prepare();  // 0 or a cudaError_t, like launch
  static int launch(const Arguments& args, const CUtensorMap& k_map, const CUtensorMap& v_map, int num_ctas,
                    void* stream);
};

}  // namespace trunkline::kernels::sm90
