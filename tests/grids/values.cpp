#include "grids/values.hpp"

#include <cmath>
#include <cstring>
#include <random>

#include "kernels/reference/formats.hpp"

namespace trunkline::grids {
namespace {

constexpr std::size_t source_length = 8192;  // elements; rows start anywhere within

float draw(Pattern pattern, Values::Role role, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, 1.0f);
  switch (pattern) {
    case Pattern::normal_tenth:
      return 0.1f * normal(random);
    case Pattern::small:
      return 1e-3f * normal(random);
    case Pattern::doubled:
      return 2.0f * normal(random);
    case Pattern::large:
      return 10.0f * normal(random);
    case Pattern::uniform:
      return std::uniform_real_distribution<float>(-1.0f, 1.0f)(random);
    case Pattern::positive:
      return std::fabs(normal(random));
    case Pattern::negative:
      return -std::fabs(normal(random));
    case Pattern::ones:
      return 1.0f;
    case Pattern::large_scores:
      return (role == Values::Role::v ? 1.0f : 60.0f) * normal(random);
    case Pattern::large_v:
      return (role == Values::Role::v ? 1e4f : 1.0f) * normal(random);
    case Pattern::far_below:
      return role == Values::Role::v ? normal(random)
                                     : (role == Values::Role::q ? 100.0f : -100.0f) * std::fabs(normal(random));
    case Pattern::half_masked:
    case Pattern::rising:
      return role == Values::Role::q ? std::fabs(normal(random)) : normal(random);
    default:
      return normal(random);
  }
}

}  // namespace

const char* to_string(Pattern pattern) {
  constexpr const char* names[] = {"normal",   "normal_tenth", "small",       "doubled",    "large",  "uniform",
                                   "positive", "negative",     "ones",        "identity_v", "zero_v", "large_scores",
                                   "large_v",  "far_below",    "half_masked", "rising"};
  return names[static_cast<std::size_t>(pattern)];
}

Values::Values(Pattern pattern, DType dtype, int head_dim, unsigned seed)
    : pattern_(pattern), dtype_(dtype), head_dim_(static_cast<std::size_t>(head_dim)), seed_(seed), state_(seed) {}

void Values::write(Role role, void* row) {
  std::vector<std::byte>& source = sources_[static_cast<std::size_t>(role)];
  if (source.empty()) {
    std::mt19937 random(seed_ + 7919 * static_cast<unsigned>(role));
    source.resize((source_length + head_dim_) * size_of(dtype_));
    for (std::size_t i = 0; i < source_length + head_dim_; ++i) {
      const double value = reference::round_to(dtype_, draw(pattern_, role, random));
      reference::store(dtype_, source.data(), static_cast<std::int64_t>(i), static_cast<float>(value));
    }
  }
  state_ = state_ * 6364136223846793005u + 1442695040888963407u;  // Knuth's MMIX generator; its high bits are good
  const std::size_t first = (state_ >> 33) % source_length;
  std::memcpy(row, source.data() + first * size_of(dtype_), head_dim_ * size_of(dtype_));
}

void Values::write_q(void* row) { write(Role::q, row); }

void Values::write_k(void* row, std::int64_t token) {
  const auto fill = [&](float value) {
    for (std::size_t i = 0; i < head_dim_; ++i) reference::store(dtype_, row, static_cast<std::int64_t>(i), value);
  };
  if (pattern_ == Pattern::half_masked && token % 2 != 0) return fill(-9984.0f);
  // Queries of head_dim 128 are about 0.8 * 128 long in the direction of equal elements: 13.6 more per 64 tokens.
  if (pattern_ == Pattern::rising) return fill(1.5f * static_cast<float>(token / 64));
  write(Role::k, row);
}

void Values::write_v(void* row, std::int64_t token) {
  if (pattern_ != Pattern::identity_v && pattern_ != Pattern::zero_v) return write(Role::v, row);
  for (std::size_t i = 0; i < head_dim_; ++i) {
    const bool one = pattern_ == Pattern::identity_v && static_cast<std::size_t>(token) % head_dim_ == i;
    reference::store(dtype_, row, static_cast<std::int64_t>(i), one ? 1.0f : 0.0f);
  }
}

}  // namespace trunkline::grids
