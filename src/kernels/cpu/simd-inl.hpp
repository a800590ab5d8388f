// What the kernels of every SIMD target share: loads that promote to f32, stores that round from f32, exp2, and two
// permutation networks. Included once per target.
#if defined(TRUNKLINE_KERNELS_CPU_SIMD_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef TRUNKLINE_KERNELS_CPU_SIMD_INL
#undef TRUNKLINE_KERNELS_CPU_SIMD_INL
#else
#define TRUNKLINE_KERNELS_CPU_SIMD_INL
#endif

#include <hwy/highway.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/elements.hpp"
#include "kernels/cpu/softmax.hpp"

// Before a loop over an array of vectors: unrolled completely, the array stays in registers.
#undef TRUNKLINE_UNROLL
#if defined(__clang__)
#define TRUNKLINE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define TRUNKLINE_UNROLL _Pragma("GCC unroll 16")
#endif

HWY_BEFORE_NAMESPACE();
namespace trunkline::kernels::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using I32 = hn::RebindToSigned<F32>;
using U32 = hn::RebindToUnsigned<F32>;
using U16 = hn::Rebind<std::uint16_t, F32>;
using Vec = hn::Vec<F32>;
using VecU32 = hn::Vec<U32>;

#if HWY_TARGET == HWY_SCALAR
inline constexpr int lanes = 1;
#else
inline constexpr int lanes = HWY_LANES(float);
#endif

/// Whether there are 32 vector registers for accumulators, broadcasts and operands; else 16.
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
inline constexpr bool many_registers = false;
#elif HWY_ARCH_X86
inline constexpr bool many_registers = lanes == 16;
#else
inline constexpr bool many_registers = true;
#endif

// ---- Elements ----

HWY_INLINE Vec load(const float* p) { return hn::LoadU(F32(), p); }

HWY_INLINE Vec load(const BFloat16* p) {
  const VecU32 bits = hn::PromoteTo(U32(), hn::LoadU(U16(), reinterpret_cast<const std::uint16_t*>(p)));
  return hn::BitCast(F32(), hn::ShiftLeft<16>(bits));
}

HWY_INLINE Vec load(const Float16* p) {
#if (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2) || HWY_TARGET == HWY_NEON
  const hn::Rebind<hwy::float16_t, F32> f16;
  return hn::PromoteTo(F32(), hn::BitCast(f16, hn::LoadU(U16(), reinterpret_cast<const std::uint16_t*>(p))));
#else
  // Moved into place the exponent is too small by 112; multiplying by 2^112 also normalises what was subnormal.
  const VecU32 bits = hn::PromoteTo(U32(), hn::LoadU(U16(), reinterpret_cast<const std::uint16_t*>(p)));
  const VecU32 magnitude = hn::And(bits, hn::Set(U32(), 0x7FFFu));
  const Vec scaled = hn::Mul(hn::BitCast(F32(), hn::ShiftLeft<13>(magnitude)), hn::Set(F32(), 0x1p112f));
  const VecU32 infinite = hn::VecFromMask(U32(), hn::Gt(magnitude, hn::Set(U32(), 0x7BFFu)));
  const VecU32 value = hn::Or(hn::BitCast(U32(), scaled), hn::And(infinite, hn::Set(U32(), 0x7F800000u)));
  return hn::BitCast(F32(), hn::Or(value, hn::ShiftLeft<16>(hn::Sub(bits, magnitude))));
#endif
}

/// The first `count` < lanes elements, zeros behind them; reads nothing else.
template <class Element>
HWY_INLINE Vec load_first(const Element* p, int count) {
  alignas(64) Element padded[lanes] = {};
  std::memcpy(padded, p, count * sizeof(Element));
  return load(padded);
}

/// 2 * lanes elements as two vectors: for bfloat16 the even and the odd ones, which takes two operations on one load
/// instead of four on two; for the others the first and the second half. `arrange` puts f32 elements into the same
/// order, `restore` back.
template <class Element>
HWY_INLINE void load_pair(const Element* p, Vec& first, Vec& second) {
#if HWY_TARGET != HWY_SCALAR
  if constexpr (std::is_same_v<Element, BFloat16>) {
    const hn::ScalableTag<std::uint16_t> u16;
    const VecU32 both = hn::BitCast(U32(), hn::LoadU(u16, reinterpret_cast<const std::uint16_t*>(p)));
    first = hn::BitCast(F32(), hn::ShiftLeft<16>(both));
    second = hn::BitCast(F32(), hn::And(both, hn::Set(U32(), 0xFFFF0000u)));
    return;
  }
#endif
  first = load(p);
  second = load(p + lanes);
}

HWY_INLINE void store(Vec v, float* p) { hn::StoreU(v, F32(), p); }

/// In place, 2 * lanes elements.
template <class Element>
HWY_INLINE void arrange(float* p) {
  if constexpr (std::is_same_v<Element, BFloat16>) {
    Vec even, odd;
    hn::LoadInterleaved2(F32(), p, even, odd);
    store(even, p);
    store(odd, p + lanes);
  }
}

template <class Element>
HWY_INLINE void restore(float* p) {
  if constexpr (std::is_same_v<Element, BFloat16>) hn::StoreInterleaved2(load(p), load(p + lanes), F32(), p);
}

/// To the nearest, ties to even. NaN stays NaN.
HWY_INLINE void store(Vec v, BFloat16* p) {
  const VecU32 bits = hn::BitCast(U32(), v);
  const VecU32 odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(U32(), 1u));
  const VecU32 rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(U32(), 0x7FFFu))));
  const auto nan = hn::RebindMask(U32(), hn::Ne(v, v));
  const VecU32 quiet = hn::Or(hn::ShiftRight<16>(bits), hn::Set(U32(), 0x40u));
  const VecU32 result = hn::IfThenElse(nan, quiet, rounded);
  hn::StoreU(hn::DemoteTo(U16(), hn::BitCast(I32(), result)), U16(), reinterpret_cast<std::uint16_t*>(p));
}

/// To the nearest, ties to even. NaN stays NaN; from 65520 on infinity.
HWY_INLINE void store(Vec v, Float16* p) {
  const U32 u32;
  const VecU32 bits = hn::BitCast(u32, v);
  const VecU32 magnitude = hn::And(bits, hn::Set(u32, 0x7FFFFFFFu));
  const VecU32 sign = hn::ShiftRight<16>(hn::Sub(bits, magnitude));
  const VecU32 odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(u32, 1u));
  const VecU32 normal = hn::ShiftRight<13>(hn::Add(hn::Add(magnitude, odd), hn::Set(u32, 0xFFFu - (112u << 23))));
  // Below 2^-14: adding 0.5 leaves multiples of 2^-24, the subnormals' unit, in the low bits, rounded to even.
  const Vec shifted = hn::Add(hn::BitCast(F32(), magnitude), hn::Set(F32(), 0.5f));
  const VecU32 subnormal = hn::Sub(hn::BitCast(u32, shifted), hn::Set(u32, 0x3F000000u));
  const auto above = [&](VecU32 a, std::uint32_t limit) HWY_ATTR { return hn::Gt(a, hn::Set(u32, limit)); };
  VecU32 result = hn::IfThenElse(above(magnitude, 0x387FFFFFu), normal, subnormal);
  result = hn::IfThenElse(above(magnitude, 0x477FEFFFu), hn::Set(u32, 0x7C00u), result);
  result = hn::IfThenElse(above(magnitude, 0x7F800000u), hn::Set(u32, 0x7E00u), result);
  result = hn::Or(result, sign);
  hn::StoreU(hn::DemoteTo(U16(), hn::BitCast(I32(), result)), U16(), reinterpret_cast<std::uint16_t*>(p));
}

/// n elements to f32. Reads exactly n; writes up to the next multiple of `lanes`, zeros behind the n.
template <class Element>
HWY_INLINE void load_row(const Element* from, int n, float* to) {
  int i = 0;
  for (; i + lanes <= n; i += lanes) store(load(from + i), to + i);
  if (i < n) store(load_first(from + i, n - i), to + i);
}

/// n elements from f32, exactly n written. `from` is readable up to the next multiple of `lanes`.
template <class Element>
HWY_INLINE void store_row(const float* from, int n, Element* to) {
  int i = 0;
  for (; i + lanes <= n; i += lanes) store(load(from + i), to + i);
  if (i < n) {
    alignas(64) Element padded[lanes];
    store(load(from + i), padded);
    std::memcpy(to + i, padded, (n - i) * sizeof(Element));
  }
}

// ---- Arithmetic ----

/// The weight exp2(distance * factor) of a score that lies `distance` <= 0 above the maximum; 0 below 2^-126, -inf
/// included. With distance * factor = n + f, n integer, |f| <= 1/2, f comes out of one fused operation and has no error
/// but its own rounding; what `factor2` lacks is added from `factor2_low`. The polynomial is 2^f's minimax of degree 6
/// with constant term 1 (relative error 2.0e-9; 0.94 ulp evaluated in f32), so that 2^0 is exactly 1.
HWY_INLINE Vec weight_of(Vec distance, const Scale& scale) {
  const F32 f32;
  const Vec factor = hn::Set(f32, scale.factor2);
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const Vec magic = hn::Set(f32, 12582912.0f);
  const Vec shifted = hn::MulAdd(distance, factor, magic);
  const Vec n = hn::Sub(shifted, magic);
  const Vec f = hn::MulAdd(distance, hn::Set(f32, scale.factor2_low), hn::MulSub(distance, factor, n));
  Vec p = hn::Set(f32, 0x1.41fbbcp-13f);
  p = hn::MulAdd(p, f, hn::Set(f32, 0x1.5f3e54p-10f));
  p = hn::MulAdd(p, f, hn::Set(f32, 0x1.3b2d4cp-7f));
  p = hn::MulAdd(p, f, hn::Set(f32, 0x1.c6aee8p-5f));
  p = hn::MulAdd(p, f, hn::Set(f32, 0x1.ebfbdcp-3f));
  p = hn::MulAdd(p, f, hn::Set(f32, 0x1.62e430p-1f));
  p = hn::MulAdd(p, f, hn::Set(f32, 1.0f));
  const VecU32 exponent = hn::ShiftLeft<23>(hn::BitCast(U32(), shifted));
  const Vec weight = hn::BitCast(f32, hn::Add(hn::BitCast(U32(), p), exponent));
  return hn::IfThenElseZero(hn::Ge(n, hn::Set(f32, -126.0f)), weight);
}

// ---- Permutation networks ----

/// Lane i is the sum of the lanes of v[i]: log2(lanes) rounds of adding neighbours, which leave half as many vectors
/// each.
template <int Width = lanes>
HWY_INLINE Vec sums([[maybe_unused]] Vec (&v)[lanes]) {
#if HWY_TARGET != HWY_SCALAR
  if constexpr (Width > 1) {
    const F32 f32;
    TRUNKLINE_UNROLL
    for (int i = 0; i < Width / 2; ++i) {
      const Vec a = v[2 * i], b = v[2 * i + 1];
      v[i] = hn::Add(hn::ConcatEven(f32, b, a), hn::ConcatOdd(f32, b, a));
    }
    return sums<Width / 2>(v);
  }
#endif
  return v[0];
}

/// Transposes the square of `lanes` vectors. One round turns the bits of (vector, lane), read as one number, by one
/// place; log2(lanes) rounds exchange vector and lane.
HWY_INLINE void transpose([[maybe_unused]] Vec (&v)[lanes]) {
#if HWY_TARGET != HWY_SCALAR
  const F32 f32;
  TRUNKLINE_UNROLL
  for (int round = 1; round < lanes; round *= 2) {
    Vec turned[lanes];
    TRUNKLINE_UNROLL
    for (int i = 0; i < lanes / 2; ++i) {
      turned[i] = hn::ConcatEven(f32, v[2 * i + 1], v[2 * i]);
      turned[i + lanes / 2] = hn::ConcatOdd(f32, v[2 * i + 1], v[2 * i]);
    }
    TRUNKLINE_UNROLL
    for (int i = 0; i < lanes; ++i) v[i] = turned[i];
  }
#endif
}

}  // namespace trunkline::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
