// Seeded random numbers and random tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/memory.hpp"
#include "trunkline/kv_view.hpp"
#include "trunkline/tensor.hpp"

namespace trunkline::tools {

/// SplitMix64: tiny, fast, the same on every machine; satisfies UniformRandomBitGenerator.
class Random {
 public:
  using result_type = std::uint64_t;
  explicit Random(std::uint64_t seed) : state_(seed) {}
  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return ~result_type{0}; }
  result_type operator()() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// Uniform in [0, n), 0 < n < 2^32; the bias of at most n / 2^32 is of no matter here.
  std::uint64_t below(std::uint64_t n) { return ((*this)() >> 32) * n >> 32; }
  /// Uniform in [0, 1).
  double uniform() { return static_cast<double>((*this)() >> 11) * 0x1.0p-53; }

 private:
  std::uint64_t state_;
};

/// Distributions of test data: normal is N(0, 1) in steps of its quantiles, cut at 3.5 sigma.
enum class Pattern : std::uint8_t { normal, small, uniform, large, positive };
const char* to_string(Pattern pattern);

/// Fills `count` elements of float32, float16 or bfloat16. About 1 G elements a second.
void fill_random(void* data, DType dtype, std::size_t count, std::uint64_t seed, Pattern pattern = Pattern::normal);

/// The values that fill_random draws from, each as likely as the others, as bits of float16 or bfloat16.
std::vector<std::uint16_t> random_values_16(DType dtype, Pattern pattern = Pattern::normal);

/// K and V of `num_pages` pages, random, with the memory they lie in.
struct RandomKv {
  RandomKv(DType dtype, KvLayout layout, std::int64_t num_pages, int page_size, int num_kv_heads, int head_dim,
           std::uint64_t seed, Pattern pattern = Pattern::normal);
  Buffer memory;
  KvView view;
};

}  // namespace trunkline::tools
