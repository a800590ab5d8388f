// What a result says of the GPU.
#pragma once

#include "common/result.hpp"

namespace trunkline::tools::cuda {

/// {"name", "compute_capability", "sms", "l2_bytes", "memory_bytes", "cuda_driver", "cuda_runtime"} of device 0.
Json gpu_json();

}  // namespace trunkline::tools::cuda
