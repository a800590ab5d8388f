#include "kernels/sm90/launch.cuh"

namespace trunkline::kernels::sm90 {

template struct Instance<__nv_bfloat16, 64, false>;
template struct Instance<__nv_bfloat16, 64, true>;

}  // namespace trunkline::kernels::sm90
