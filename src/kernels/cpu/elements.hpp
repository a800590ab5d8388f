// The 16-bit elements as the kernels name them; conversions are in simd-inl.hpp.
#pragma once

#include <cstdint>
#include <utility>

#include "kernels/params.hpp"

namespace trunkline::kernels::cpu {

struct Float16 {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

inline std::int64_t size_of(Element element) { return element == Element::f32 ? 4 : 2; }

/// Calls f with a null pointer of the element's type.
template <class F>
inline void visit_element(Element element, F&& f) {
  switch (element) {
    case Element::f32:
      return std::forward<F>(f)(static_cast<const float*>(nullptr));
    case Element::f16:
      return std::forward<F>(f)(static_cast<const Float16*>(nullptr));
    case Element::bf16:
      return std::forward<F>(f)(static_cast<const BFloat16*>(nullptr));
  }
}

}  // namespace trunkline::kernels::cpu
