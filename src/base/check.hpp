// Argument checks that throw trunkline::Error, and the few numbers every layer needs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

#include "trunkline/error.hpp"

namespace trunkline {

/// Throws invalid_argument for `argument` when the condition does not hold. `expected` and `got` are made only then.
template <class Expected, class Got>
inline void require(bool holds, const char* argument, Expected&& expected, Got&& got) {
  if (holds) [[likely]] {
    return;
  }
  auto text = [](auto&& value) -> std::string {
    using T = std::decay_t<decltype(value)>;
    if constexpr (std::is_arithmetic_v<T>) {
      return std::to_string(value);
    } else {
      return std::string(std::forward<decltype(value)>(value));
    }
  };
  throw Error(ErrorCode::invalid_argument, argument, text(std::forward<Expected>(expected)),
              text(std::forward<Got>(got)));
}

inline constexpr int max_page_size = 1024;  // tokens
inline constexpr int max_head_dim = 256;

/// ceil(a / b) for a >= 0, b > 0.
template <class T>
constexpr T ceil_div(T a, T b) {
  return a / b + (a % b != 0);
}

template <class T>
constexpr T round_up(T a, T b) {
  return ceil_div(a, b) * b;
}

/// KV heads that are taken at once of a narrow item of so many rows and tokens, given what may be packed (DeviceSpec).
constexpr int heads_at_once(int rows, double tokens, int packed_rows, int packed_tokens, int num_kv_heads) {
  return tokens > packed_tokens ? 1 : std::clamp(packed_rows / rows, 1, num_kv_heads);
}

}  // namespace trunkline
