// What the command's exit codes mean.
#pragma once

#include <stdexcept>

namespace trunkline::tools {

inline constexpr int exit_ok = 0;
inline constexpr int exit_check_failed = 1;
inline constexpr int exit_bad_input = 2;
inline constexpr int exit_unsupported = 3;

inline constexpr const char* exit_code_help =
    "Exit codes: 0 success; 1 a result exceeded its error bound or a check failed; 2 bad usage or input;\n"
    "3 not supported by this build or machine, or a device failed.";

/// The command did its work and the answer is no: an error bound exceeded, an invariant broken.
struct CheckFailed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace trunkline::tools
