// The instances of the kernel, one source file per element type and head_dim.
#pragma once

#include <cuda.h>

#include "kernels/sm90/arguments.hpp"

namespace trunkline::kernels::sm90 {

/// The copy engine's view of the caller's arrays; not used by general instances.
struct Maps {
  CUtensorMap q, k, v;
};

/// T: __half or __nv_bfloat16; head_dim: 64 or 128; general: any page size, strides
/// and alignment; else pages are whole boxes for the copy engine, and rows of q and out lie at multiples of 16 bytes.
template <class T, int head_dim, bool general>
struct Instance {
  static int prepare();  // 0 or a cudaError_t, like launch
  static int launch(const Arguments& args, const Maps& maps, int num_ctas, void* stream);
};

}  // namespace trunkline::kernels::sm90
