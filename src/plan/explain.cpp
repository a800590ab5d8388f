// A plan in words and in JSON.
#include <algorithm>
#include <charconv>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.hpp"
#include "trunkline/plan.hpp"

namespace trunkline {
namespace {

// Nodes that the text shows, shared ones before others, then those that cost most; the JSON has all.
constexpr std::size_t most_shown = 40;

// Independent of the locale, unlike printf.
std::string fixed(double value, int digits) {
  char buffer[400];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed, digits).ptr;
  return {buffer, end};
}
std::string us(double seconds) { return fixed(seconds * 1e6, 2); }
std::string mb(std::int64_t bytes) { return fixed(static_cast<double>(bytes) * 1e-6, 3); }

std::vector<std::int32_t> depths(const Forest& forest) {
  std::vector<std::int32_t> depth;
  for (const Node& node : forest.nodes()) depth.push_back(node.parent < 0 ? 0 : depth[node.parent] + 1);
  return depth;
}

struct Totals {
  std::size_t wide_items = 0;
  std::int64_t item_tokens = 0;  // summed over items
};
Totals totals_of(const Plan& plan) {
  Totals totals;
  for (const Phase& phase : plan.phases)
    totals.wide_items += static_cast<std::size_t>(phase.wide_end - phase.item_begin);
  for (const Segment& segment : plan.segments) totals.item_tokens += segment.token_end - segment.token_begin;
  return totals;
}

// The largest part of the modelled time.
const char* bound_of(const Plan::Model& m) {
  if (m.fixed_seconds >= std::max(m.item_seconds, m.merge_seconds)) return "fixed costs";
  if (m.merge_seconds >= m.item_seconds) return "merges";
  if (2 * m.read_seconds >= m.item_seconds) return "bytes";
  return m.wide_seconds >= m.narrow_seconds ? "the wide lane" : "the narrow lane";
}

const char* choice_of(const Node& node, const Plan::NodeChoice& choice) {
  if (choice.rows == 0) return "no rows";
  if (!choice.kept) return "given back";
  return node.request_end - node.request_begin > 1 ? "shared" : "own";
}

class Table {
 public:
  explicit Table(std::vector<std::string> head) : width_(head.size(), 0) { add(std::move(head)); }
  void add(std::vector<std::string> line) {
    for (std::size_t c = 0; c < line.size(); ++c) width_[c] = std::max(width_[c], line[c].size());
    lines_.push_back(std::move(line));
  }
  void print(std::string& text) const {
    for (const std::vector<std::string>& line : lines_) {
      for (std::size_t c = 0; c < line.size(); ++c) {
        text.append(c == 0 ? 2 : 2 + width_[c] - line[c].size(), ' ')
            .append(c == 0 ? width_[c] - line[c].size() : 0, ' ');
        text += line[c];
      }
      text += '\n';
    }
  }

 private:
  std::vector<std::size_t> width_;
  std::vector<std::vector<std::string>> lines_;
};

// One JSON object or array; members in the order they are added.
class Json {
 public:
  explicit Json(char open) : text_(1, open) {}
  Json& add(std::string_view key, const Json& value) { return raw(key, value.text()); }
  Json& add(std::string_view key, const char* value) { return raw(key, '"' + std::string(value) + '"'); }  // no escapes
  Json& add(std::string_view key, bool value) { return raw(key, value ? "true" : "false"); }
  Json& add(std::string_view key, double value) {
    char buffer[64];
    return raw(key, std::string(buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr));
  }
  template <std::integral T>
  Json& add(std::string_view key, T value) {
    return raw(key, std::to_string(value));
  }
  std::string text() const { return text_ + (text_[0] == '{' ? '}' : ']'); }

 private:
  Json& raw(std::string_view key, std::string_view value) {
    if (text_.size() > 1) text_ += ", ";
    if (text_[0] == '{') text_.append("\"").append(key).append("\": ");
    text_ += value;
    return *this;
  }
  std::string text_;
};

// A forest that has changed since would be read beyond its end, or another's nodes be named.
void check_planned(const Plan& plan, const Forest& forest) {
  const auto shape = [](std::size_t num_nodes, std::int64_t num_query_tokens) {
    return std::to_string(num_nodes) + " nodes and " + std::to_string(num_query_tokens) + " query tokens";
  };
  const std::string planned = shape(plan.choices.size(), std::ssize(plan.query_tokens));
  const std::string given = shape(forest.nodes().size(), forest.num_query_tokens());
  require(planned == given, "forest", "the planned one, of " + planned, "one of " + given);
}

}  // namespace

std::string Plan::explain(const Forest& forest) const {
  check_planned(*this, forest);
  const Totals totals = totals_of(*this);
  const auto count = [](std::size_t n) { return std::to_string(n); };
  std::string text;
  auto line = [&text](const std::string& s) { text += s + '\n'; };
  line(std::string("strategy ") + to_string(strategy) + ", " + count(num_workers) + " workers, " + count(num_kv_heads) +
       " KV heads, group size " + count(group_size) +
       (shed ? "; shed: splits or sharing given up for the workspace" : ""));
  line("forest: " + count(forest.num_requests()) + " requests, " + count(query_tokens.size()) + " query tokens, " +
       count(forest.nodes().size()) + " nodes, " + std::to_string(forest.total_tokens()) + " tokens, " +
       std::to_string(forest.distinct_tokens()) + " distinct, share " + fixed(forest.share(), 2));
  line("plan: " + count(items.size()) + " items (" + count(totals.wide_items) +
       (paired ? " wide for two workers each, " : " wide, ") + count(items.size() - totals.wide_items) +
       " narrow) in " + count(phases.size()) + " phases, " + count(merges.size()) + " merges of " +
       count(merge_sources.size()) + " sources, " + std::to_string(num_partial_rows) + " partial rows");
  const double reads = forest.distinct_tokens() == 0
                           ? 0.0
                           : static_cast<double>(totals.item_tokens) / static_cast<double>(forest.distinct_tokens());
  line("reads " + mb(model.kv_bytes) + " MB of KV, " + fixed(reads, 2) + " times what is distinct; partials " +
       mb(model.partial_bytes) + " MB; " + fixed(model.operations * 1e-9, 3) + " GFLOP");
  line("modelled " + us(model.seconds) + " us = fixed " + us(model.fixed_seconds) + " + items " +
       us(model.item_seconds) + " + merges " + us(model.merge_seconds) + "; bound by " + bound_of(model));
  line("items: reads " + us(model.read_seconds) + " us, wide lane " + us(model.wide_seconds) + " us, narrow lane " +
       us(model.narrow_seconds) + " us");
  if (choices.empty()) return text;

  std::vector<std::size_t> shown(choices.size());
  std::iota(shown.begin(), shown.end(), std::size_t{0});
  const std::size_t num_shown = std::min(most_shown, shown.size());
  std::partial_sort(shown.begin(), shown.begin() + static_cast<std::ptrdiff_t>(num_shown), shown.end(),
                    [&](std::size_t a, std::size_t b) {
                      auto shared = [&](std::size_t v) {
                        return forest.nodes()[v].request_end - forest.nodes()[v].request_begin > 1;
                      };
                      if (shared(a) != shared(b)) return shared(a);
                      const double x = choices[a].seconds, y = choices[b].seconds;
                      return x != y ? x > y : a < b;
                    });
  double all_seconds = 0, other_seconds = 0;
  for (const NodeChoice& choice : choices) all_seconds += choice.seconds;
  for (std::size_t i = num_shown; i < shown.size(); ++i) other_seconds += choices[shown[i]].seconds;
  shown.resize(num_shown);
  std::sort(shown.begin(), shown.end());

  const std::vector<std::int32_t> depth = depths(forest);
  auto percent = [all_seconds](double seconds) { return fixed(all_seconds > 0 ? 100 * seconds / all_seconds : 0, 1); };
  Table table({"node", "depth", "first", "tokens", "requests", "rows", "choice", "covers", "tiles", "splits",
               "worker us", "%"});
  for (const std::size_t v : shown) {
    const Node& node = forest.nodes()[v];
    const NodeChoice& choice = choices[v];
    table.add({count(v), count(depth[v]), count(node.first_token), count(node.num_tokens),
               count(node.request_end - node.request_begin), count(choice.rows), choice_of(node, choice),
               count(choice.tokens), count(choice.row_tiles), count(choice.splits), us(choice.seconds),
               percent(choice.seconds)});
  }
  table.print(text);
  if (choices.size() > num_shown) {
    line("  and " + count(choices.size() - num_shown) + " more nodes, " + us(other_seconds) + " worker us, " +
         percent(other_seconds) + " %");
  }
  return text;
}

std::string Plan::explain_json(const Forest& forest) const {
  check_planned(*this, forest);
  const Totals totals = totals_of(*this);
  const std::vector<std::int32_t> depth = depths(forest);
  Json shape('{'), modelled('{'), nodes('['), json('{');
  shape.add("requests", forest.num_requests())
      .add("query_tokens", forest.num_query_tokens())
      .add("nodes", forest.nodes().size())
      .add("total_tokens", forest.total_tokens())
      .add("distinct_tokens", forest.distinct_tokens())
      .add("share", forest.share());
  modelled.add("us", model.seconds * 1e6)
      .add("fixed_us", model.fixed_seconds * 1e6)
      .add("item_us", model.item_seconds * 1e6)
      .add("merge_us", model.merge_seconds * 1e6)
      .add("read_us", model.read_seconds * 1e6)
      .add("wide_us", model.wide_seconds * 1e6)
      .add("narrow_us", model.narrow_seconds * 1e6)
      .add("kv_bytes", model.kv_bytes)
      .add("partial_bytes", model.partial_bytes)
      .add("operations", model.operations)
      .add("bound", bound_of(model));
  for (std::size_t v = 0; v < choices.size(); ++v) {
    const Node& node = forest.nodes()[v];
    nodes.add("", Json('{')
                      .add("node", v)
                      .add("parent", node.parent)
                      .add("depth", depth[v])
                      .add("first_token", node.first_token)
                      .add("num_tokens", node.num_tokens)
                      .add("request_begin", node.request_begin)
                      .add("request_end", node.request_end)
                      .add("rows", choices[v].rows)
                      .add("choice", choice_of(node, choices[v]))
                      .add("covered_tokens", choices[v].tokens)
                      .add("row_tiles", choices[v].row_tiles)
                      .add("splits", choices[v].splits)
                      .add("worker_us", choices[v].seconds * 1e6));
  }
  return json.add("strategy", to_string(strategy))
      .add("num_workers", num_workers)
      .add("num_kv_heads", num_kv_heads)
      .add("group_size", group_size)
      .add("shed", shed)
      .add("paired", paired)
      .add("forest", shape)
      .add("phases", phases.size())
      .add("items", items.size())
      .add("wide_items", totals.wide_items)
      .add("narrow_items", items.size() - totals.wide_items)
      .add("segments", segments.size())
      .add("merges", merges.size())
      .add("merge_sources", merge_sources.size())
      .add("partial_rows", num_partial_rows)
      .add("model", modelled)
      .add("nodes", nodes)
      .text();
}

}  // namespace trunkline
