#include "kernels/sm80/attention.hpp"

#include "kernels/sm80/launch.hpp"

namespace trunkline::kernels::sm80 {
namespace {

/// Calls `call` with the kernels for an element and a head_dim that `supports` takes.
template <class Call>
int with_kernels(Element element, int head_dim, Call&& call) {
  const auto with_head_dim = [&]<Element E>() {
    if (head_dim <= 64) return call(Kernels<E, 64>());
    if (head_dim <= 128) return call(Kernels<E, 128>());
    return call(Kernels<E, 256>());
  };
  return element == Element::f16 ? with_head_dim.template operator()<Element::f16>()
                                 : with_head_dim.template operator()<Element::bf16>();
}

}  // namespace

bool supports(int head_dim, Element q, Element kv) {
  return q == kv && q != Element::f32 && head_dim >= 16 && head_dim <= 256 && head_dim % 16 == 0;
}

int prepare(int head_dim, Element q) {
  return with_kernels(q, head_dim, [](auto kernels) { return kernels.prepare(); });
}

int launch(const CudaParams& params, int num_ctas, void* stream) {
  return with_kernels(params.attention.q_element, params.attention.head_dim,
                      [&](auto kernels) { return kernels.launch(params, num_ctas, stream); });
}

}  // namespace trunkline::kernels::sm80
