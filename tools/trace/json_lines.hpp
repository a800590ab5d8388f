// One JSON object a line, read with errors that name file and line.
#pragma once

#include <simdjson.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace trunkline::trace {

/// The key between quotation marks, as errors name it.
std::string quoted(std::string_view key);

/// The lines of a file, one after the other. Blank lines are legal at the end only. Values that came from a line are
/// good until the next one is read.
class JsonLines {
 public:
  /// Reads the file. Throws invalid_argument when that fails.
  explicit JsonLines(const std::filesystem::path& path);

  /// Goes to the next line; false at the end. Throws invalid_argument unless it holds exactly one JSON object.
  bool next();
  std::int32_t line() const noexcept { return line_; }
  simdjson::dom::object object() const noexcept { return object_; }

  // Typed fields of an object of this line; each throws `fail` when the field is missing or something else.
  bool has(simdjson::dom::object object, std::string_view key) const;
  std::int64_t integer(simdjson::dom::object object, std::string_view key, std::int64_t least, std::int64_t most) const;
  simdjson::dom::array array(simdjson::dom::object object, std::string_view key) const;
  simdjson::dom::object object(simdjson::dom::object object, std::string_view key) const;
  /// A finite number >= 0; where `text` is allowed, also one written as a string.
  double time(simdjson::dom::object object, std::string_view key, bool text) const;
  /// A value as an integer in [least, most]; `what` names it in the error.
  std::int64_t integer_value(simdjson::dom::element value, std::string_view what, std::int64_t least,
                             std::int64_t most) const;

  /// Throws invalid_argument for this line.
  [[noreturn]] void fail(const std::string& expected, const std::string& got) const;

 private:
  simdjson::dom::element field(simdjson::dom::object object, std::string_view key, const std::string& expected) const;

  std::string path_;
  std::string text_;
  std::size_t position_ = 0;
  std::int32_t line_ = 0;
  simdjson::dom::parser parser_;
  simdjson::dom::object object_;
};

}  // namespace trunkline::trace
