#include "trunkline/error.hpp"

#include <utility>

namespace trunkline {

const char* to_string(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::invalid_argument:
      return "invalid_argument";
    case ErrorCode::unsupported:
      return "unsupported";
    case ErrorCode::out_of_pages:
      return "out_of_pages";
    case ErrorCode::capacity_exceeded:
      return "capacity_exceeded";
    case ErrorCode::device_error:
      return "device_error";
    case ErrorCode::corrupt:
      return "corrupt";
  }
  return "unknown";
}

Error::Error(ErrorCode code, std::string argument, std::string expected, std::string got)
    : std::runtime_error(std::string(to_string(code)) + ": " + argument + ": expected " + expected + ", got " + got),
      code_(code),
      argument_(std::move(argument)),
      expected_(std::move(expected)),
      got_(std::move(got)) {}

Error Error::out_of_pages(std::string argument, long long needed, long long available) {
  Error error(ErrorCode::out_of_pages, std::move(argument), std::to_string(needed) + " free or evictable pages",
              std::to_string(available) + " (" + std::to_string(needed - available) + " missing)");
  error.missing_ = needed - available;
  return error;
}

}  // namespace trunkline
