#include "kernels/sm80/launch.cuh"

namespace trunkline::kernels::sm80 {

template struct Kernels<Element::f16, 64>;
template struct Kernels<Element::f16, 128>;
template struct Kernels<Element::f16, 256>;

}  // namespace trunkline::kernels::sm80
