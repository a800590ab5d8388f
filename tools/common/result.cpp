#include "common/result.hpp"

#include <fmt/core.h>

#include <cstdio>
#include <fstream>

#include "common/machine.hpp"
#include "trunkline/error.hpp"
#include "trunkline/system.hpp"

namespace trunkline::tools {

Result::Result(const std::string& kind) {
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

void Result::write(const std::string& path) const {
  if (!path.empty()) write_text(path, json_.dump(1) + "\n");
}

void write_text(const std::string& path, const std::string& text) {
  if (path == "-") {
    fmt::print("{}", text);
    return;
  }
  std::ofstream file(path, std::ios::binary);
  if (!(file << text) || !file.flush())
    throw Error(ErrorCode::invalid_argument, path, "a file that can be written", "an error");
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
