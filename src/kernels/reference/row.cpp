#include "kernels/reference/row.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/reference/formats.hpp"

namespace trunkline::reference {
namespace {

/// Rounding to a format with unit roundoff u is off by anything up to u |x|: the standard deviation of the uniform
/// error is u / sqrt(3) of x just above a power of two, where it is largest, and that is taken everywhere.
double rounding_variance(DType dtype) {
  const double u = unit_roundoff(dtype);
  return u * u / 3;
}

double squared(double x) { return x * x; }

/// A sum of n terms, and what its rounding leaves behind.
struct Sum {
  double value = 0, squares = 0;  // of the terms
  double count = 0;

  void add(double term) {
    value += term;
    squares += squared(term);
    count += 1;
  }
  /// The sum of the squares of the n partial sums, on average over all orders of the terms: an evaluation may take any.
  /// E[S_j^2] = j / n * squares + j (j - 1) / (n (n - 1)) * (value^2 - squares), summed over j.
  double partial_squares() const { return (count + 1) * (squares / 6 + squared(value) / 3); }
};

}  // namespace

Exact exact_row(const std::vector<float>& q, const Context& context, std::size_t visible, double scale,
                DType kv_dtype) {
  const std::size_t head_dim = q.size();
  const auto k = [&](std::size_t t, std::size_t i) { return double{context.k[t * head_dim + i]}; };
  const auto v = [&](std::size_t t, std::size_t i) { return double{context.v[t * head_dim + i]}; };
  const double rounding = rounding_variance(DType::float32);
  Exact row;

  // Scores. Each product and each partial sum of the dot product is rounded, then the product with the scale.
  std::vector<double> scores(visible), variances(visible);
  for (std::size_t t = 0; t < visible; ++t) {
    Sum score;
    for (std::size_t i = 0; i < head_dim; ++i) score.add(double{q[i]} * k(t, i));
    scores[t] = scale * score.value;
    variances[t] = rounding * (squared(scale) * (score.squares + score.partial_squares()) + squared(scores[t]));
    row.max_score = std::max(row.max_score, scores[t]);
  }

  // Weights. Rounded: the distance to the maximum, the exponential, and the partial sums, which are common to all.
  std::vector<double> weights(visible);
  Sum sum;
  for (std::size_t t = 0; t < visible; ++t) {
    weights[t] = std::exp(scores[t] - row.max_score);
    variances[t] += rounding * (squared(scores[t] - row.max_score) + 1);
    sum.add(weights[t]);
  }
  const double sum_variance = rounding * sum.partial_squares() / squared(sum.value);
  row.lse = row.max_score + std::log(sum.value);

  // The result. Rounded: the weight over the sum, in the dtype of V, its product with v, and the partial sums.
  const double weight_variance = rounding_variance(kv_dtype) + rounding;
  std::vector<Sum> out(head_dim);
  for (std::size_t t = 0; t < visible; ++t) {
    weights[t] /= sum.value;
    for (std::size_t i = 0; i < head_dim; ++i) out[i].add(weights[t] * v(t, i));
  }
  for (const Sum& element : out) {
    row.out.push_back(element.value);
    row.out_variance.push_back(weight_variance * element.squares + rounding * element.partial_squares() +
                               sum_variance * squared(element.value));
  }
  // What is wrong with a score moves weight from every other token to its own.
  row.lse_variance = sum_variance;
  for (std::size_t t = 0; t < visible; ++t) {
    const double moved = squared(weights[t]) * variances[t];
    row.lse_variance += moved;
    for (std::size_t i = 0; i < head_dim; ++i) row.out_variance[i] += moved * squared(v(t, i) - row.out[i]);
  }
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
