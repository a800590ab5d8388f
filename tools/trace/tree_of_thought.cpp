// Tree of thought: a line is a tree. Its root is a prompt; every other node is a branch that forks from its parent when
// that one ends and decodes one token in each of the steps start..end.
#include <limits>
#include <string>
#include <unordered_map>
#include <vector>

#include "trace/builder.hpp"
#include "trace/json_lines.hpp"

namespace trunkline::trace {
namespace {

constexpr std::int64_t most_tokens = std::numeric_limits<std::int32_t>::max();

struct Branch {
  std::int64_t id, parent, tokens, start, end;
};

Branch read_branch(const JsonLines& lines, simdjson::dom::element value) {
  simdjson::dom::object row;
  if (value.get(row)) lines.fail("\"nodes\" element: an object", simdjson::to_string(value));
  Branch branch;
  branch.id = lines.integer(row, "id", 0, most_tokens);
  branch.parent = lines.integer(row, "parent", -1, most_tokens);
  branch.tokens = lines.integer(row, "tokens", branch.parent < 0 ? 1 : 0, most_tokens);
  branch.start = lines.integer(row, "start", -most_tokens, most_tokens);
  branch.end = lines.integer(row, "end", -most_tokens, most_tokens);
  if (branch.end - branch.start + 1 != branch.tokens) {
    lines.fail("node " + std::to_string(branch.id) +
                   ": tokens = end - start + 1 = " + std::to_string(branch.end - branch.start + 1),
               std::to_string(branch.tokens));
  }
  return branch;
}

/// The nodes, the root first and every parent before its children, in the order of the line among siblings.
std::vector<Branch> read_tree(const JsonLines& lines) {
  std::vector<Branch> given;
  std::unordered_map<std::int64_t, std::size_t> by_id;
  std::size_t root = 0, num_roots = 0;
  for (const auto value : lines.array(lines.object(), "nodes")) {
    given.push_back(read_branch(lines, value));
    const Branch& branch = given.back();
    if (!by_id.emplace(branch.id, given.size() - 1).second) {
      lines.fail("each node id once", std::to_string(branch.id) + " again");
    }
    if (branch.parent < 0) root = given.size() - 1, ++num_roots;
  }
  if (num_roots != 1) lines.fail("one root (parent -1)", std::to_string(num_roots));
  std::vector<std::vector<std::size_t>> children(given.size());
  for (std::size_t i = 0; i < given.size(); ++i) {
    const Branch& branch = given[i];
    if (branch.parent < 0) continue;
    const std::string name = "node " + std::to_string(branch.id);
    const auto parent = by_id.find(branch.parent);
    if (parent == by_id.end()) lines.fail(name + ": a parent in the tree", std::to_string(branch.parent));
    const std::int64_t start = given[parent->second].end + 1;
    if (branch.start != start) {
      lines.fail(name + ": start in the step after its parent's end, " + std::to_string(start),
                 std::to_string(branch.start));
    }
    children[parent->second].push_back(i);
  }
  std::vector<std::size_t> order{root};
  for (std::size_t i = 0; i < order.size(); ++i) {
    const auto& next = children[order[i]];
    order.insert(order.end(), next.begin(), next.end());
  }
  // Only branches without a token can form a circle: the others begin later than their parents.
  if (order.size() != given.size()) {
    lines.fail("every node below the root", std::to_string(given.size() - order.size()) + " nodes that are not");
  }
  std::vector<Branch> tree;
  tree.reserve(order.size());
  for (const std::size_t i : order) tree.push_back(given[i]);
  return tree;
}

void add_tree(const JsonLines& lines, TokenIds& ids, Trace& trace) {
  std::unordered_map<std::int64_t, std::int32_t> request_of;
  for (const Branch& branch : read_tree(lines)) {
    Request request;
    request.line = lines.line();
    request.run_begin = static_cast<std::int64_t>(trace.runs.size());
    std::int32_t first = 0;
    if (!ids.own(branch.tokens, first)) lines.fail(token_ids_expected, "more");
    const auto tokens = static_cast<std::int32_t>(branch.tokens);
    if (branch.parent < 0) {
      trace.runs.push_back({first, tokens});
      request.prompt_length = tokens;
    } else {
      request.parent = request_of.at(branch.parent);
      const Request parent = trace.requests[static_cast<std::size_t>(request.parent)];
      if (std::int64_t{parent.prompt_length} + parent.output_length + tokens > most_tokens) {
        lines.fail(token_ids_expected, "more");
      }
      for (std::int64_t run = parent.run_begin; run < parent.run_end; ++run) {
        trace.runs.push_back(TokenRun(trace.runs[static_cast<std::size_t>(run)]));
      }
      if (parent.output_length > 0) trace.runs.push_back({parent.first_output, parent.output_length});
      request.prompt_length = parent.prompt_length + parent.output_length;
      request.output_length = tokens;
      request.first_output = first;
    }
    request.run_end = static_cast<std::int64_t>(trace.runs.size());
    request_of.emplace(branch.id, static_cast<std::int32_t>(trace.requests.size()));
    trace.requests.push_back(request);
  }
}

}  // namespace

Trace read_tree_of_thought(const std::filesystem::path& path, std::size_t max_requests) {
  Trace trace;
  trace.path = path.string();
  trace.format = Format::tree_of_thought;
  TokenIds ids;
  JsonLines lines(path);
  while (lines.next()) add_tree(lines, ids, trace);
  // Parents come before their branches, so the first requests are whole but for branches cut off.
  if (max_requests > 0 && trace.requests.size() > max_requests) trace.requests.resize(max_requests);
  return trace;
}

}  // namespace trunkline::trace
