#include "trace/json_lines.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>

#include "trunkline/error.hpp"

namespace trunkline::trace {
namespace {

constexpr std::string_view blanks = " \t\r\n";
constexpr std::string_view byte_order_mark = "\xEF\xBB\xBF";

/// A piece of a line that fits in a message: its beginning, printable characters only.
std::string excerpt(std::string_view text) {
  constexpr std::size_t most = 60;
  std::string out;
  for (const char c : text.substr(0, most)) out += c >= ' ' && c <= '~' ? c : '?';
  return text.size() > most ? out + "..." : out;
}

std::string show(simdjson::dom::element value) { return excerpt(simdjson::to_string(value)); }

}  // namespace

std::string quoted(std::string_view key) { return fmt::format("\"{}\"", key); }

JsonLines::JsonLines(const std::filesystem::path& path) : path_(path.string()) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (file) text_.assign(std::istreambuf_iterator<char>(file), {});
  if (!file || file.bad() || std::filesystem::is_directory(path)) {
    throw Error(ErrorCode::invalid_argument, path_, "a readable file", errno ? std::strerror(errno) : "none");
  }
  if (text_.starts_with(byte_order_mark)) position_ = byte_order_mark.size();
}

bool JsonLines::next() {
  if (position_ >= text_.size() || text_.find_first_not_of(blanks, position_) == std::string::npos) return false;
  const std::size_t end = std::min(text_.find('\n', position_), text_.size());
  const std::string_view content(text_.data() + position_, end - position_);
  position_ = end + 1;
  ++line_;
  if (content.find_first_not_of(blanks) == std::string_view::npos) fail("a JSON object", "a blank line");
  simdjson::dom::element value;
  if (const auto error = parser_.parse(content.data(), content.size()).get(value)) {
    fail("a JSON object", fmt::format("'{}' ({})", excerpt(content), simdjson::error_message(error)));
  }
  if (value.get(object_)) fail("a JSON object", show(value));
  return true;
}

bool JsonLines::has(simdjson::dom::object object, std::string_view key) const {
  return object.at_key(key).error() == simdjson::SUCCESS;
}

simdjson::dom::element JsonLines::field(simdjson::dom::object object, std::string_view key,
                                        const std::string& expected) const {
  simdjson::dom::element value;
  if (object.at_key(key).get(value)) fail(quoted(key) + ": " + expected, "no such field");
  return value;
}

std::int64_t JsonLines::integer(simdjson::dom::object object, std::string_view key, std::int64_t least,
                                std::int64_t most) const {
  return integer_value(field(object, key, "an integer"), quoted(key), least, most);
}

std::int64_t JsonLines::integer_value(simdjson::dom::element value, std::string_view what, std::int64_t least,
                                      std::int64_t most) const {
  std::int64_t number = 0;
  if (value.get(number) || number < least || number > most) {
    fail(fmt::format("{}: an integer from {} to {}", what, least, most), show(value));
  }
  return number;
}

simdjson::dom::array JsonLines::array(simdjson::dom::object object, std::string_view key) const {
  const simdjson::dom::element value = field(object, key, "an array");
  simdjson::dom::array out;
  if (value.get(out)) fail(quoted(key) + ": an array", show(value));
  return out;
}

simdjson::dom::object JsonLines::object(simdjson::dom::object object, std::string_view key) const {
  const simdjson::dom::element value = field(object, key, "an object");
  simdjson::dom::object out;
  if (value.get(out)) fail(quoted(key) + ": an object", show(value));
  return out;
}

double JsonLines::time(simdjson::dom::object object, std::string_view key, bool text) const {
  const simdjson::dom::element value = field(object, key, "a number");
  double number = -1;
  std::string_view written;
  if (text && value.get(written) == simdjson::SUCCESS) {
    const auto [end, error] = std::from_chars(written.data(), written.data() + written.size(), number);
    if (error != std::errc() || end != written.data() + written.size()) number = -1;
  } else if (value.get(number)) {
    number = -1;
  }
  if (!std::isfinite(number) || number < 0) fail(quoted(key) + ": a number of at least 0", show(value));
  return number;
}

void JsonLines::fail(const std::string& expected, const std::string& got) const {
  throw Error(ErrorCode::invalid_argument, path_ + ":" + std::to_string(line_), expected, got);
}

}  // namespace trunkline::trace
