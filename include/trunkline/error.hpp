// The one exception type of the library. Every public call validates its arguments before it writes anything; what it
// throws names the argument, what was expected and what came.
#pragma once

#include <stdexcept>
#include <string>

namespace trunkline {

enum class ErrorCode {
  invalid_argument,   // a value, shape, dtype or stride that no build of the library accepts
  unsupported,        // legal, but not built yet or not in this build; the feature is named
  out_of_pages,       // the page pool cannot serve the call; `missing()` says how many pages are lacking
  capacity_exceeded,  // the batch is larger than the capacity an Attention was made for
  device_error,       // the device or its driver failed
  corrupt,            // an integrity check failed: a defect of the library or a foreign write
};

/// "invalid_argument", "unsupported", ...
const char* to_string(ErrorCode code) noexcept;

class Error : public std::runtime_error {
 public:
  /// `what()` reads "<code>: <argument>: expected <expected>, got <got>".
  Error(ErrorCode code, std::string argument, std::string expected, std::string got);

  ErrorCode code() const noexcept { return code_; }
  const std::string& argument() const noexcept { return argument_; }
  const std::string& expected() const noexcept { return expected_; }
  const std::string& got() const noexcept { return got_; }
  /// For `out_of_pages`: the number of pages that would have had to be free in addition. Otherwise 0.
  long long missing() const noexcept { return missing_; }

  static Error out_of_pages(std::string argument, long long needed, long long available);

 private:
  ErrorCode code_;
  std::string argument_, expected_, got_;
  long long missing_ = 0;
};

}  // namespace trunkline
