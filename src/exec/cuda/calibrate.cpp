#include "exec/cuda/backend.hpp"
#include "trunkline/error.hpp"

namespace trunkline::exec::cuda {

DeviceSpec calibrate(const Device&) {
  throw Error(ErrorCode::unsupported, "device", "cpu, since calibration of CUDA devices is not built yet", "cuda");
}

}  // namespace trunkline::exec::cuda
