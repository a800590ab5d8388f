// The one result format: machine, device, commit, command and rows; see docs/results.md.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "trunkline/attention.hpp"

namespace trunkline::tools {

using Json = nlohmann::ordered_json;

class Result {
 public:
  /// kind: "bench", "replay", "check", ...; path: the file for `write`, "-" for standard output, "" for none. Throws
  /// invalid_argument when the file cannot be written, before anything is measured; what it holds stays until `write`.
  Result(const std::string& kind, const std::string& path);

  /// The device of an Attention that made rows; the last one given stays.
  void set_device(const Attention& attention);
  void add_row(Json row) { json_["rows"].push_back(std::move(row)); }
  /// Fields beside the rows (`series`, `forest`, ...).
  Json& operator[](const std::string& field) { return json_[field]; }
  const Json& json() const { return json_; }
  /// Throws invalid_argument when the file cannot be written.
  void write() const;
  /// What is known so far, for a run that is ended by force. To a regular file alone: what is written to a pipe stays.
  void write_so_far() const;

 private:
  std::string path_;
  Json json_;
};

/// Throws invalid_argument naming the path when write_text could not write there. Leaves no trace.
void require_writable(const std::string& path);
/// Writes text to a file, or to standard output for "-". Throws invalid_argument naming the path.
void write_text(const std::string& path, const std::string& text);
/// Reads a JSON file. Throws invalid_argument naming the path and the place of a syntax error.
nlohmann::json read_json(const std::string& path);

}  // namespace trunkline::tools
