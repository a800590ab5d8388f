#include "common/result.hpp"

#include <fmt/core.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "common/machine.hpp"
#include "trunkline/error.hpp"
#include "trunkline/system.hpp"

namespace trunkline::tools {
namespace {

namespace fs = std::filesystem;

Error not_writable(const std::string& path) {
  return Error(ErrorCode::invalid_argument, path, "a file that can be written", "an error");
}

/// Pipes and devices: to open one is an effect, and what is written to it cannot be replaced.
bool is_special(const std::string& path) {
  std::error_code ignored;
  return path == "-" || fs::is_other(path, ignored);
}

}  // namespace

Result::Result(const std::string& kind, const std::string& path) : path_(path) {
  if (!path.empty()) require_writable(path);
  json_["schema"] = 1;
  json_["kind"] = kind;
  json_["version"] = version();
  json_["machine"] = machine_json();
  json_["device"] = Json::object();
  json_["commit"] = commit();
  json_["command"] = command_line();
  json_["rows"] = Json::array();
}

void Result::set_device(const Attention& attention) { json_["device"] = device_json(attention); }

void Result::write() const {
  if (!path_.empty()) write_text(path_, json_.dump(1) + "\n");
}

void Result::write_so_far() const {
  if (is_special(path_)) return;
  try {
    write();
  } catch (const Error&) {  // NOLINT(bugprone-empty-catch)
    // `write` says so when all was measured and printed.
  }
}

void require_writable(const std::string& path) {
  if (is_special(path)) return;
  std::error_code ignored;
  const bool is_new = !fs::exists(path, ignored);
  if (!std::ofstream(path, std::ios::binary | std::ios::app)) throw not_writable(path);
  if (is_new) fs::remove(path, ignored);
}

void write_text(const std::string& path, const std::string& text) {
  if (path == "-") {
    fmt::print("{}", text);
    return;
  }
  std::ofstream file(path, std::ios::binary);
  if (!(file << text) || !file.flush()) throw not_writable(path);
}

nlohmann::json read_json(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(ErrorCode::invalid_argument, path, "a file that can be read", "none");
  try {
    return nlohmann::json::parse(file);
  } catch (const nlohmann::json::parse_error& error) {
    throw Error(ErrorCode::invalid_argument, path, "JSON", error.what());
  }
}

}  // namespace trunkline::tools
