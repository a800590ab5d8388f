// A forest for people and for pictures.
#pragma once

#include <cstdio>
#include <nlohmann/json.hpp>

#include "trunkline/forest.hpp"

namespace trunkline::tools {

/// {"page_size", "num_requests", "total_tokens", "distinct_tokens", "share", "nodes": [{"parent", "first_token",
/// "num_tokens", "request_begin", "request_end"}, ...]}, as the forest has them.
nlohmann::ordered_json to_json(const Forest& forest);

/// An indented tree of at most `max_nodes` nodes, and how many were left out.
void print(const Forest& forest, int max_nodes, std::FILE* stream);

}  // namespace trunkline::tools
