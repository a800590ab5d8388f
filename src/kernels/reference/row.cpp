#include "kernels/reference/row.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/reference/formats.hpp"

namespace trunkline::reference {
namespace {

/// Rounding x in f32 is off by up to 2^-24 |x|, and by 0.42 of that in the root mean square over the places of x
/// between two powers of two: sqrt(1/3) of the uniform error, times sqrt(3 / (8 ln 2)) for the place.
constexpr double rounding = 0.42 * 0x1p-24;

double squared(double x) { return x * x; }

}  // namespace

Exact exact_row(const std::vector<float>& q, const Context& context, std::size_t visible, double scale,
                DType kv_dtype) {
  const std::size_t head_dim = q.size();
  const auto k = [&](std::size_t t, std::size_t i) { return double{context.k[t * head_dim + i]}; };
  const auto v = [&](std::size_t t, std::size_t i) { return double{context.v[t * head_dim + i]}; };
  Exact row;

  // Scores. Each product and each partial sum of the dot product is rounded, then the product with the scale.
  std::vector<double> scores(visible), variances(visible);
  for (std::size_t t = 0; t < visible; ++t) {
    double score = 0, squares = 0;
    for (std::size_t i = 0; i < head_dim; ++i) {
      const double product = double{q[i]} * k(t, i);
      score += product;
      squares += squared(product) + squared(score);
    }
    scores[t] = scale * score;
    variances[t] = squared(rounding) * (squared(scale) * squares + squared(scores[t]));
    row.max_score = std::max(row.max_score, scores[t]);
  }

  // Weights. Rounded: the distance to the maximum, the exponential, and the partial sums, which are common to all.
  std::vector<double> weights(visible);
  double sum = 0, sum_squares = 0;
  for (std::size_t t = 0; t < visible; ++t) {
    weights[t] = std::exp(scores[t] - row.max_score);
    variances[t] += squared(rounding) * (squared(scores[t] - row.max_score) + 1);
    sum += weights[t];
    sum_squares += squared(sum);
  }
  const double sum_variance = squared(rounding) * sum_squares / squared(sum);
  row.lse = row.max_score + std::log(sum);

  // The result. Rounded: the weight over the sum, in the dtype of V, its product with v, and the partial sums.
  const double weight_variance = squared(0.42 * unit_roundoff(kv_dtype)) + squared(rounding);
  row.out.assign(head_dim, 0.0);
  row.out_variance.assign(head_dim, 0.0);
  for (std::size_t t = 0; t < visible; ++t) {
    weights[t] /= sum;
    for (std::size_t i = 0; i < head_dim; ++i) {
      const double term = weights[t] * v(t, i);
      row.out[i] += term;
      row.out_variance[i] += weight_variance * squared(term) + squared(rounding) * squared(row.out[i]);
    }
  }
  // What is wrong with a score moves weight from every other token to its own.
  row.lse_variance = sum_variance;
  for (std::size_t t = 0; t < visible; ++t) {
    const double moved = squared(weights[t]) * variances[t];
    row.lse_variance += moved;
    for (std::size_t i = 0; i < head_dim; ++i) row.out_variance[i] += moved * squared(v(t, i) - row.out[i]);
  }
  for (std::size_t i = 0; i < head_dim; ++i) row.out_variance[i] += sum_variance * squared(row.out[i]);
  return row;
}

Naive naive_row(const std::vector<float>& q, const Context& context, std::size_t visible, float scale, DType kv_dtype,
                DType out_dtype) {
  const std::size_t head_dim = q.size();
  std::vector<float> weights(visible), out(head_dim, 0.0f);
  float max_score = -std::numeric_limits<float>::infinity();
  for (std::size_t t = 0; t < visible; ++t) {
    float score = 0;
    for (std::size_t i = 0; i < head_dim; ++i) score += q[i] * context.k[t * head_dim + i];
    weights[t] = scale * score;
    max_score = std::max(max_score, weights[t]);
  }
  float sum = 0;
  for (float& weight : weights) sum += weight = std::exp(weight - max_score);
  for (std::size_t t = 0; t < visible; ++t) {
    const auto weight = static_cast<float>(round_to(kv_dtype, weights[t] / sum));
    for (std::size_t i = 0; i < head_dim; ++i) out[i] += weight * context.v[t * head_dim + i];
  }
  Naive row;
  row.lse = max_score + std::log(sum);
  for (const float value : out) row.out.push_back(round_to(out_dtype, value));
  return row;
}

}  // namespace trunkline::reference
