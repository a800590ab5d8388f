#include "kernels/sm90/launch.cuh"

namespace trunkline::kernels::sm90 {

template struct Instance<__half, 128, false>;
template struct Instance<__half, 128, true>;

}  // namespace trunkline::kernels::sm90
