// Checks of options that CLI11 lacks, or whose refusals it words with all digits of the largest number there is.
#pragma once

#include <CLI/CLI.hpp>
#include <cmath>
#include <string>

namespace trunkline::tools {

inline CLI::Validator number_check(bool (*is_good)(double), const std::string& expected, const std::string& help) {
  return CLI::Validator(
      [=](std::string& text) {
        double number = 0;
        const bool good = CLI::detail::lexical_cast(text, number) && is_good(number);
        return good ? std::string() : "expected " + expected + ", got " + text;
      },
      help);
}

inline CLI::Validator positive() {
  return number_check([](double number) { return number > 0 && std::isfinite(number); }, "a number above 0",
                      "POSITIVE");
}

/// For unsigned numbers too, of which CLI11 reads -1 as the largest.
inline CLI::Validator non_negative() {
  return number_check([](double number) { return number >= 0; }, "a number of at least 0", "NONNEGATIVE");
}

}  // namespace trunkline::tools
