#include "common/random.hpp"

#include <array>
#include <cmath>
#include <vector>

#include "common/scalar.hpp"

namespace trunkline::tools {
namespace {

// Values are drawn from a table of quantiles: 12 random bits pick one, so that filling runs at memory speed. 4096
// entries keep the table in the first-level cache in every dtype and reach 3.5 sigma.
constexpr int table_bits = 12;
constexpr int table_size = 1 << table_bits;

/// The inverse of the standard normal distribution by bisection: short, and exact enough for the table.
double normal_quantile(double probability) {
  double low = -5, high = 5;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < probability ? low : high) = middle;
  }
  return (low + high) / 2;
}

std::array<float, table_size> quantiles(Pattern pattern) {
  std::array<float, table_size> table;
  for (int i = 0; i < table_size; ++i) {
    const double probability = (i + 0.5) / table_size;
    double value = 0;
    switch (pattern) {
      case Pattern::normal:
        value = normal_quantile(probability);
        break;
      case Pattern::small:
        value = 0.1 * normal_quantile(probability);
        break;
      case Pattern::uniform:
        value = 2 * probability - 1;
        break;
      case Pattern::large:
        value = 2 * normal_quantile(probability);
        break;
      case Pattern::positive:
        value = std::fabs(normal_quantile(probability));
        break;
    }
    table[static_cast<std::size_t>(i)] = static_cast<float>(value);
  }
  return table;
}

std::array<std::uint16_t, table_size> rounded_to(DType dtype, const std::array<float, table_size>& table) {
  std::array<std::uint16_t, table_size> rounded;
  for (std::size_t i = 0; i < table.size(); ++i) {
    rounded[i] = dtype == DType::float16 ? float16_bits(table[i]) : bfloat16_bits(table[i]);
  }
  return rounded;
}

template <class Element>
void fill(Element* data, std::size_t count, const std::array<Element, table_size>& table, std::uint64_t seed) {
  constexpr int draws = 64 / table_bits;
  Random random(seed);
  std::size_t i = 0;
  while (i < count) {
    std::uint64_t bits = random();
    for (int draw = 0; draw < draws && i < count; ++draw, bits >>= table_bits) data[i++] = table[bits % table_size];
  }
}

}  // namespace

const char* to_string(Pattern pattern) {
  switch (pattern) {
    case Pattern::normal:
      return "normal";
    case Pattern::small:
      return "small";
    case Pattern::uniform:
      return "uniform";
    case Pattern::large:
      return "large";
    case Pattern::positive:
      return "positive";
  }
  return "?";
}

void fill_random(void* data, DType dtype, std::size_t count, std::uint64_t seed, Pattern pattern) {
  const auto table = quantiles(pattern);
  if (dtype == DType::float32) return fill(static_cast<float*>(data), count, table, seed);
  const auto rounded = rounded_to(dtype, table);
  fill(static_cast<std::uint16_t*>(data), count, rounded, seed);
}

std::vector<std::uint16_t> random_values_16(DType dtype, Pattern pattern) {
  const auto rounded = rounded_to(dtype, quantiles(pattern));
  return {rounded.begin(), rounded.end()};
}

RandomKv::RandomKv(DType dtype, KvLayout layout, std::int64_t num_pages, int page_size, int num_kv_heads, int head_dim,
                   std::uint64_t seed, Pattern pattern) {
  const std::size_t count = static_cast<std::size_t>(num_pages) * 2 * static_cast<std::size_t>(page_size) *
                            static_cast<std::size_t>(num_kv_heads) * static_cast<std::size_t>(head_dim);
  memory = Buffer(count * size_of(dtype));
  fill_random(memory.data(), dtype, count, seed, pattern);
  view = KvView::interleaved(memory.data(), dtype, layout, num_pages, page_size, num_kv_heads, head_dim);
}

}  // namespace trunkline::tools
