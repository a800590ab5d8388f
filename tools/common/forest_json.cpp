#include "common/forest_json.hpp"

#include <fmt/core.h>

#include <string>
#include <vector>

namespace trunkline::tools {

nlohmann::ordered_json to_json(const Forest& forest) {
  auto nodes = nlohmann::ordered_json::array();
  for (const Node& node : forest.nodes()) {
    nodes.push_back({{"parent", node.parent},
                     {"first_token", node.first_token},
                     {"num_tokens", node.num_tokens},
                     {"request_begin", node.request_begin},
                     {"request_end", node.request_end}});
  }
  return {{"page_size", forest.page_size()},
          {"num_requests", forest.num_requests()},
          {"total_tokens", forest.total_tokens()},
          {"distinct_tokens", forest.distinct_tokens()},
          {"share", forest.share()},
          {"nodes", std::move(nodes)}};
}

void print(const Forest& forest, int max_nodes, std::FILE* stream) {
  fmt::print(stream, "forest: {} requests, {} nodes, {} tokens, {} distinct, share {:.2f}\n", forest.num_requests(),
             forest.nodes().size(), forest.total_tokens(), forest.distinct_tokens(), forest.share());
  std::vector<std::size_t> depth(forest.nodes().size(), 0);
  for (std::size_t i = 0; i < forest.nodes().size(); ++i) {
    const Node& node = forest.nodes()[i];
    if (node.parent >= 0) depth[i] = depth[static_cast<std::size_t>(node.parent)] + 1;
    if (i >= static_cast<std::size_t>(max_nodes)) continue;
    const int requests = node.request_end - node.request_begin;
    fmt::print(stream, "{}node {}: tokens {} to {}, {} request{}\n", std::string(2 * depth[i] + 2, ' '), i,
               node.first_token, node.first_token + node.num_tokens, requests, requests == 1 ? "" : "s");
  }
  if (forest.nodes().size() > static_cast<std::size_t>(max_nodes)) {
    fmt::print(stream, "  and {} nodes more\n", forest.nodes().size() - static_cast<std::size_t>(max_nodes));
  }
}

}  // namespace trunkline::tools
