// The partial-state algebra: attention over a set of tokens, and the exact combination of disjoint sets. Written once
// for host and device.
//
// A state is (out, lse): `out` is normalised over its tokens, `lse` is the log-sum-exp of its scores, in the natural
// logarithm. The empty set has lse = -inf and its out is never used. For states a and b with lse_b <= lse_a:
//     w   = exp(lse_b - lse_a)
//     lse = lse_a + log(1 + w)
//     out = (out_a + w * out_b) / (1 + w)
// Commutative to the bit; associative within rounding. An lse of NaN stays NaN; an lse of +inf takes all the weight.
#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define TRUNKLINE_HOST_DEVICE __host__ __device__
#else
#define TRUNKLINE_HOST_DEVICE
#endif

namespace trunkline::merge {

/// The factors of each side's out, and the lse of the union. A side without tokens has weight exactly 0; when neither
/// has any, both weights are 0 and lse is -inf.
struct Weights {
  float a, b, lse;
};

TRUNKLINE_HOST_DEVICE inline Weights weights(float lse_a, float lse_b) {
  if (lse_a == -INFINITY && lse_b == -INFINITY) return {0.0f, 0.0f, -INFINITY};
  const bool a_leads = lse_a > lse_b;
  const float high = a_leads ? lse_a : lse_b;
  const float low = a_leads ? lse_b : lse_a;
  const float w = expf(low - high);  // exp(-inf) is 0: the empty side vanishes
  const float minor = w / (1.0f + w),
              major = 1.0f - minor;  // the two add up to 1
  const float lse = high + log1pf(w);
  return a_leads ? Weights{major, minor, lse} : Weights{minor, major, lse};
}

/// One element of out under those weights. A weight of 0 keeps whatever that side holds, NaN included, out of the
/// result.
TRUNKLINE_HOST_DEVICE inline float combine(const Weights& w, float out_a, float out_b) {
  const float a = w.a == 0.0f ? 0.0f : w.a * out_a;
  const float b = w.b == 0.0f ? 0.0f : w.b * out_b;
  return a + b;
}

}  // namespace trunkline::merge
