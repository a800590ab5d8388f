// The shapes that systems for shared prefixes publish, as forests: a representative part of each of their grids.
#pragma once

#include <array>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "plan/support.hpp"

namespace trunkline::test {

struct Shape {
  std::string name;
  int num_qo_heads, num_kv_heads;
  std::vector<int> nodes_per_level, tokens_per_node;
  int page_size;

  Forest forest() const { return tree_forest(nodes_per_level, tokens_per_node, page_size); }
  AttentionConfig config(Strategy strategy) const { return config_of(num_qo_heads, num_kv_heads, page_size, strategy); }
};

inline Shape prefix_shape(int batch, int shared, int unique, int num_qo_heads, int num_kv_heads) {
  std::ostringstream name;
  name << batch << " x " << shared << " + " << unique << ", heads " << num_qo_heads << "/" << num_kv_heads;
  return {name.str(), num_qo_heads, num_kv_heads, {1, batch}, {shared, unique}, 16};
}

inline Shape tree_shape(std::vector<int> nodes, std::vector<int> tokens, int num_qo_heads, int num_kv_heads) {
  std::ostringstream name;
  name << "tree";
  for (const int n : nodes) name << " " << n;
  name << ", tokens";
  for (const int t : tokens) name << " " << t;
  name << ", heads " << num_qo_heads << "/" << num_kv_heads;
  return {name.str(), num_qo_heads, num_kv_heads, std::move(nodes), std::move(tokens), 8};
}

inline std::vector<Shape> published_shapes() {
  std::vector<Shape> shapes;
  for (const auto& [batch, shared, unique, qo, kv] :
       std::vector<std::array<int, 5>>{// decode
                                       {16, 1024, 128, 32, 8},
                                       {16, 4096, 256, 32, 8},
                                       {16, 32768, 256, 32, 8},
                                       {32, 16384, 512, 32, 8},
                                       {64, 4096, 256, 32, 8},
                                       {64, 16384, 0, 32, 8},
                                       {128, 4096, 1024, 32, 8},
                                       {256, 32768, 128, 32, 8},
                                       {32, 4096, 256, 32, 32},
                                       {128, 1024, 512, 32, 32},
                                       {128, 4096, 512, 64, 8},
                                       {32, 0, 4160, 32, 32},
                                       {128, 2048, 64, 32, 32},
                                       // where a cascade was slower than plain decode
                                       {8, 4000, 64, 8, 1},
                                       {2, 64, 2048, 32, 8},
                                       {256, 16, 512, 32, 8},
                                       {1, 0, 32768, 32, 8},
                                       {4, 512, 16, 32, 32},
                                       // ChunkAttention
                                       {32, 0, 1088, 32, 32},
                                       {32, 512, 576, 32, 32},
                                       {32, 1024, 64, 32, 32},
                                       {32, 1024, 1088, 32, 32},
                                       {32, 2048, 2112, 32, 32},
                                       {32, 4096, 64, 32, 32},
                                       {48, 2048, 64, 32, 32},
                                       {96, 2048, 64, 32, 32},
                                       // its ThunderKittens port
                                       {32, 256, 0, 4, 4},
                                       {32, 4096, 0, 8, 8},
                                       {32, 8192, 0, 256, 256},
                                       {64, 1024, 0, 16, 16},
                                       // Hydragen
                                       {512, 1024, 0, 8, 1},
                                       {512, 1024, 16, 8, 1},
                                       {512, 1024, 512, 8, 1},
                                       {1024, 2048, 64, 8, 1},
                                       {2048, 4096, 256, 8, 1}}) {
    shapes.push_back(prefix_shape(batch, shared, unique, qo, kv));
  }
  for (const auto& [qo, kv] : {std::pair{16, 1}, {32, 8}, {32, 32}}) {
    // FastTree
    shapes.push_back(tree_shape({1, 2, 64}, {8, 256, 32}, qo, kv));
    shapes.push_back(tree_shape({1, 4, 8, 256}, {8, 256, 256, 32}, qo, kv));
    shapes.push_back(tree_shape({1, 1024}, {2048, 32}, qo, kv));
    shapes.push_back(tree_shape({1, 4, 16, 64, 256, 1024}, {256, 8, 256, 64, 32, 256}, qo, kv));
    shapes.push_back(tree_shape({1, 2, 4, 8, 16, 32, 64, 128, 1024}, {16, 16, 16, 16, 16, 16, 16, 16, 16}, qo, kv));
    shapes.push_back(tree_shape({1, 8, 16, 32, 64, 256, 1024}, {256, 128, 64, 16, 16, 16, 16}, qo, kv));
    // PAT
    shapes.push_back(tree_shape({1, 10}, {4096, 416}, qo, kv));
    shapes.push_back(tree_shape({1, 2, 64}, {1024, 256, 256}, qo, kv));
    shapes.push_back(tree_shape({1, 8, 512}, {32, 2048, 256}, qo, kv));
  }
  return shapes;
}

}  // namespace trunkline::test
