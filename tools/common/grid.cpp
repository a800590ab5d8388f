#include "common/grid.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <charconv>
#include <filesystem>
#include <set>
#include <sstream>

#include "common/result.hpp"
#include "trunkline/error.hpp"

namespace trunkline::tools {
namespace {

/// The fields of one case, the grid's defaults behind them. Errors name the case and the field.
class CaseReader {
 public:
  CaseReader(nlohmann::json fields, std::string where) : fields_(std::move(fields)), where_(std::move(where)) {}

  [[noreturn]] void fail(const std::string& field, const std::string& expected, const std::string& got) const {
    throw Error(ErrorCode::invalid_argument, where_ + ": " + field, expected, got);
  }
  bool has(const char* field) const { return fields_.contains(field); }
  const nlohmann::json& at(const char* field) const {
    if (!has(field)) fail(field, "a value", "none");
    return fields_[field];
  }
  int integer(const char* field) const { return integer(field, at(field)); }
  int integer_or(const char* field, int otherwise) const { return has(field) ? integer(field) : otherwise; }
  std::vector<int> integers(const char* field) const {
    if (!at(field).is_array()) fail(field, "a list of numbers", at(field).dump());
    std::vector<int> values;
    for (const auto& value : at(field)) values.push_back(integer(field, value));
    return values;
  }
  DType dtype(const char* field) const {
    if (!at(field).is_string()) fail(field, "a name like \"bfloat16\"", at(field).dump());
    try {
      return dtype_from_string(at(field).get<std::string>());
    } catch (const Error& error) {
      fail(field, error.expected(), error.got());
    }
  }

 private:
  int integer(const char* field, const nlohmann::json& value) const {
    constexpr std::int64_t most = 1 << 30;
    if (!value.is_number_integer() || value.get<double>() > most || value.get<double>() < -most) {
      fail(field, "an integer", value.dump());
    }
    return value.get<int>();
  }

  nlohmann::json fields_;
  std::string where_;
};

std::vector<GridLevel> read_levels(const CaseReader& reader) {
  if (!reader.has("nodes_per_level")) {
    const int batch = reader.integer("batch");
    return make_case(batch, reader.integer("shared"), reader.integer("unique")).levels;
  }
  const auto nodes = reader.integers("nodes_per_level");
  const auto tokens = reader.integers("tokens_per_node");
  if (nodes.empty()) reader.fail("nodes_per_level", "at least one level", "none");
  if (tokens.size() != nodes.size()) {
    reader.fail("tokens_per_node", fmt::format("one number per level, {}", nodes.size()),
                std::to_string(tokens.size()));
  }
  std::vector<GridLevel> levels;
  levels.reserve(nodes.size());
  for (std::size_t i = 0; i < nodes.size(); ++i) levels.push_back({nodes[i], tokens[i]});
  return levels;
}

GridCase read_case(const CaseReader& reader, const nlohmann::ordered_json& fields) {
  GridCase result;
  result.levels = read_levels(reader);
  const auto heads = reader.integers("heads");
  if (heads.size() != 2) reader.fail("heads", "[query heads, KV heads]", reader.at("heads").dump());
  result.heads = {heads[0], heads[1]};
  result.head_dim = reader.integer_or("head_dim", result.head_dim);
  result.page_size = reader.integer_or("page_size", result.page_size);
  result.qo_len = reader.integer_or("qo_len", result.qo_len);
  if (reader.has("dtype")) result.dtype = reader.dtype("dtype");
  result.fields = fields;
  return result;
}

void check_field(bool ok, const char* field, const char* expected, std::int64_t got) {
  if (!ok) throw Error(ErrorCode::invalid_argument, field, expected, std::to_string(got));
}

}  // namespace

std::string GridCase::label() const {
  if (levels.size() == 2 && levels[0].num_nodes == 1) {
    return fmt::format("{} x ({} + {})", num_requests(), levels[0].tokens_per_node, levels[1].tokens_per_node);
  }
  if (levels.size() == 1) return fmt::format("{} x {}", num_requests(), levels[0].tokens_per_node);
  std::vector<int> nodes, tokens;
  for (const auto& level : levels) nodes.push_back(level.num_nodes), tokens.push_back(level.tokens_per_node);
  return fmt::format("{} x {}", fmt::join(nodes, ","), fmt::join(tokens, ","));
}

void GridCase::validate() const {
  check_field(!levels.empty(), "levels", "at least one", 0);
  std::int64_t seq_len = 0;
  for (const auto& level : levels) {
    check_field(level.num_nodes >= 1 && level.num_nodes <= 1 << 20, "batch", "1 to 1048576 requests or nodes",
                level.num_nodes);
    check_field(level.tokens_per_node >= 0, "tokens", "0 or more", level.tokens_per_node);
    seq_len += level.tokens_per_node;
  }
  check_field(seq_len <= 1 << 26, "tokens", "at most 67108864 in one request", seq_len);
  for (std::size_t i = 1; i < levels.size(); ++i) {
    check_field(levels[i].num_nodes >= levels[i - 1].num_nodes, "nodes_per_level",
                "no fewer nodes than on the level above", levels[i].num_nodes);
  }
  check_field(qo_len >= 1 && qo_len <= std::max<std::int64_t>(seq_len, 1), "qo_len", "1 to the request's tokens",
              qo_len);
  AttentionConfig config;
  config.num_qo_heads = heads.qo;
  config.num_kv_heads = heads.kv;
  config.head_dim = head_dim;
  config.page_size = page_size;
  config.q_dtype = config.kv_dtype = dtype;
  try {
    config.validate();
  } catch (const Error& error) {  // "config.head_dim" is "head_dim" here
    const auto dot = error.argument().rfind('.');
    throw Error(error.code(), error.argument().substr(dot == std::string::npos ? 0 : dot + 1), error.expected(),
                error.got());
  }
}

GridCase make_case(int batch, int shared, int unique) {
  GridCase result;
  // One level when all or nothing is shared: a level of empty nodes would only be dropped again.
  if (shared != 0) result.levels.push_back({1, shared});
  result.levels.push_back({batch, unique});
  result.fields = {{"batch", batch}, {"shared", shared}, {"unique", unique}};
  return result;
}

Grid grid_from_json(const nlohmann::json& json, const std::string& name) {
  const auto fail = [&](const char* field, const char* expected, const std::string& got) {
    throw Error(ErrorCode::invalid_argument, name + ": " + field, expected, got);
  };
  if (!json.is_object()) fail("grid", "an object", json.type_name());
  if (json.value("schema", nlohmann::json()) != 1)
    fail("schema", "1", json.contains("schema") ? json["schema"].dump() : "none");
  if (!json.contains("cases") || !json["cases"].is_array())
    fail("cases", "a list", json.contains("cases") ? json["cases"].dump() : "none");
  const auto defaults = json.value("defaults", nlohmann::json::object());
  if (!defaults.is_object()) fail("defaults", "an object", defaults.dump());
  Grid grid;
  grid.name = name;
  if (json.contains("source") && json["source"].is_string()) grid.source = json["source"];
  for (std::size_t i = 0; i < json["cases"].size(); ++i) {
    const std::string where = fmt::format("{}: case {}", name, i + 1);
    const auto& fields = json["cases"][i];
    if (!fields.is_object()) throw Error(ErrorCode::invalid_argument, where, "an object", fields.dump());
    auto merged = defaults;
    merged.update(fields);
    GridCase one = read_case(CaseReader(merged, where), fields);
    try {
      one.validate();
    } catch (const Error& error) {
      throw Error(error.code(), where + ": " + error.argument(), error.expected(), error.got());
    }
    grid.cases.push_back(std::move(one));
  }
  return grid;
}

std::vector<int> parse_case_numbers(const std::string& text, int count) {
  // A number, or two with a dash between them; 0 where it is neither.
  const auto read_number = [](const char*& at, const char* end) {
    int number = 0;
    const auto [next, error] = std::from_chars(at, end, number);
    if (error != std::errc{}) return 0;
    at = next;
    return number;
  };
  std::set<int> numbers;
  std::stringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    const char* at = part.data();
    const char* const end = at + part.size();
    const int first = read_number(at, end);
    const int last = at != end && *at == '-' ? read_number(++at, end) : first;
    if (at != end || first < 1 || last < first || last > count) {
      throw Error(ErrorCode::invalid_argument, "cases", fmt::format("numbers from 1 to {}, like 1,3,5-8", count),
                  "'" + text + "'");
    }
    for (int number = first; number <= last; ++number) numbers.insert(number);
  }
  return {numbers.begin(), numbers.end()};
}

Grid load_grid(const std::string& path) {
  return grid_from_json(read_json(path), std::filesystem::path(path).stem().string());
}

}  // namespace trunkline::tools
