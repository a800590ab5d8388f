#include "trace/read.hpp"

#include "trace/builder.hpp"
#include "trace/json_lines.hpp"
#include "trunkline/error.hpp"

namespace trunkline::trace {
namespace {

/// The folder of a RAGPulse trace, of which the path may name the trace file.
std::filesystem::path ragpulse_folder(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) return path;
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

Trace read_as(const std::filesystem::path& path, Format format, std::size_t max_requests) {
  switch (format) {
    case Format::mooncake:
      return read_mooncake(path, max_requests);
    case Format::ragpulse:
      return read_ragpulse(ragpulse_folder(path), max_requests);
    case Format::tree_of_thought:
      return read_tree_of_thought(path, max_requests);
  }
  throw Error(ErrorCode::invalid_argument, "format", "one of Format", "another value");
}

}  // namespace

Format detect_format(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) {
    if (std::filesystem::exists(path / "0_trace.jsonl")) return Format::ragpulse;
    throw Error(ErrorCode::invalid_argument, path.string(), "a trace file, or a folder with 0_trace.jsonl",
                "a folder without");
  }
  if (path.filename() == "0_trace.jsonl") return Format::ragpulse;
  JsonLines lines(path);
  if (!lines.next()) throw Error(ErrorCode::invalid_argument, path.string(), "a trace", "an empty file");
  if (lines.has(lines.object(), "nodes")) return Format::tree_of_thought;
  if (lines.has(lines.object(), "timestamp")) return Format::mooncake;
  lines.fail("\"timestamp\" (Mooncake) or \"nodes\" (tree of thought)", "neither field");
}

Trace read_trace(const std::filesystem::path& path, std::optional<Format> format, std::size_t max_requests) {
  Trace trace = read_as(path, format ? *format : detect_format(path), max_requests);
  if (trace.requests.empty()) throw Error(ErrorCode::invalid_argument, path.string(), "at least one request", "none");
  return trace;
}
}  // namespace trunkline::trace
