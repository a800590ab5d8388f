// RAGPulse's format: a folder. 0_trace.jsonl names the ordered components of each prompt, the numbered tables beside it
// say how many tokens each component has. What input_length has beyond its components is the request's own, last.
#include <algorithm>
#include <limits>
#include <string>
#include <unordered_map>
#include <vector>

#include "trace/builder.hpp"
#include "trace/json_lines.hpp"
#include "trunkline/error.hpp"

namespace trunkline::trace {
namespace {

constexpr std::int64_t most_tokens = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t most_id = std::numeric_limits<std::int64_t>::max();
constexpr const char* trace_file = "0_trace.jsonl";
constexpr std::string_view length_field = "token_length";

/// The token lengths of one kind of component.
struct Table {
  std::string name;  // "passages", of 2_passages.jsonl
  std::unordered_map<std::int64_t, std::int64_t> lengths;
};

/// "2_passages.jsonl" -> "passages"; empty when it is no numbered table.
std::string table_name(const std::filesystem::path& file) {
  const std::string stem = file.stem().string();
  const std::size_t digits = std::min(stem.find_first_not_of("0123456789"), stem.size());
  const bool numbered = digits > 0 && digits < stem.size() && stem[digits] == '_';
  return numbered && file.extension() == ".jsonl" && file.filename() != trace_file ? stem.substr(digits + 1) : "";
}

Table read_table(const std::filesystem::path& file) {
  Table table{table_name(file), {}};
  JsonLines lines(file);
  while (lines.next()) {
    const auto row = lines.object();
    const std::int64_t length = lines.integer(row, length_field, 0, most_tokens);
    const auto id_field =
        std::find_if(row.begin(), row.end(), [](const auto& field) { return field.key.ends_with("_id"); });
    if (id_field == row.end()) lines.fail("a field that ends in \"_id\"", "none");
    const std::int64_t id = lines.integer_value((*id_field).value, "the id", 0, most_id);
    if (!table.lengths.emplace(id, length).second) lines.fail("each id once", std::to_string(id) + " again");
  }
  return table;
}

std::vector<Table> read_tables(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (!table_name(entry.path()).empty()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  std::vector<Table> tables;
  tables.reserve(files.size());
  for (const auto& file : files) tables.push_back(read_table(file));
  return tables;
}

/// The table of a key of "hash_ids": the one of that name, "passages_ids" being the passages.
const Table* find_table(const std::vector<Table>& tables, std::string_view key) {
  const auto found = std::find_if(tables.begin(), tables.end(), [key](const Table& table) {
    return key == table.name || key == table.name + "_ids" || key == table.name + "_id";
  });
  return found == tables.end() ? nullptr : &*found;
}

class Reader {
 public:
  Reader(const std::filesystem::path& folder, Trace& trace)
      : tables_(read_tables(folder)), lines_(folder / trace_file), trace_(trace) {}

  void read() {
    while (lines_.next()) add_request();
  }

 private:
  void add_request() {
    const auto row = lines_.object();
    Request request;
    request.line = lines_.line();
    request.arrival = lines_.time(row, "timestamp", true);
    const std::int64_t length = lines_.integer(row, "input_length", 1, most_tokens);
    request.prompt_length = static_cast<std::int32_t>(length);
    request.output_length = static_cast<std::int32_t>(lines_.integer(row, "output_length", 0, most_tokens));
    request.run_begin = static_cast<std::int64_t>(trace_.runs.size());
    std::int64_t left = length;
    for (const auto [key, value] : lines_.object(row, "hash_ids")) left = add_components(key, value, length, left);
    if (left > 0) {
      TokenRun own{0, static_cast<std::int32_t>(left)};
      if (!ids_.own(left, own.first)) lines_.fail(token_ids_expected, "more");
      trace_.runs.push_back(own);
    }
    request.run_end = static_cast<std::int64_t>(trace_.runs.size());
    if (!ids_.own(request.output_length, request.first_output)) lines_.fail(token_ids_expected, "more");
    trace_.requests.push_back(request);
  }

  /// Appends the components of one kind to the prompt, of which `left` tokens are still to come; returns what then is.
  std::int64_t add_components(std::string_view key, simdjson::dom::element value, std::int64_t length,
                              std::int64_t left) {
    const std::string name = quoted(key);
    const Table* table = find_table(tables_, key);
    if (!table) lines_.fail("a numbered table of token lengths for " + name, "no such file");
    simdjson::dom::array components;
    if (value.get(components)) lines_.fail(name + ": an array", simdjson::to_string(value));
    for (const auto component : components) {
      const std::int64_t id = lines_.integer_value(component, name + " element", 0, most_id);
      const auto found = table->lengths.find(id);
      if (found == table->lengths.end()) lines_.fail(name + ": ids of its table", std::to_string(id));
      if (found->second > left) {
        lines_.fail("components of at most input_length = " + std::to_string(length) + " tokens together",
                    "at least " + std::to_string(length - left + found->second));
      }
      if (found->second == 0) continue;
      TokenRun run{0, static_cast<std::int32_t>(found->second)};
      if (!ids_.shared(static_cast<std::uint32_t>(table - tables_.data()), id, found->second, run.first)) {
        lines_.fail(token_ids_expected, "more");
      }
      trace_.runs.push_back(run);
      left -= found->second;
    }
    return left;
  }

  std::vector<Table> tables_;
  JsonLines lines_;
  Trace& trace_;
  TokenIds ids_;
};

}  // namespace

Trace read_ragpulse(const std::filesystem::path& path, std::size_t max_requests) {
  Trace trace;
  trace.path = path.string();
  trace.format = Format::ragpulse;
  Reader(path, trace).read();
  finish_by_arrival(trace, max_requests);
  return trace;
}

}  // namespace trunkline::trace
