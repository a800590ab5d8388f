#include "common/check_grids.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <initializer_list>

namespace trunkline::tools {
namespace {

using Visit = std::function<void(const CheckCase&)>;

constexpr Pattern every_pattern[] = {Pattern::normal, Pattern::small, Pattern::uniform, Pattern::large,
                                     Pattern::positive};

/// `shared` tokens of all, then `unique` of each.
std::vector<Path> star(int batch, int shared, int unique) { return paths_of(make_case(batch, shared, unique)); }

/// A tree by the tokens of its nodes, level by level; the nodes of a level are spread evenly over those above.
std::vector<Path> tree(const std::vector<std::vector<int>>& levels) {
  GridCase shape;
  for (const auto& level : levels) shape.levels.push_back({static_cast<int>(level.size()), 0});
  std::vector<int> tokens;  // by node number, which runs through the levels
  for (const auto& level : levels) tokens.insert(tokens.end(), level.begin(), level.end());
  auto paths = paths_of(shape);
  for (Path& path : paths) {
    for (PathStep& step : path) step.tokens = tokens[static_cast<std::size_t>(step.node)];
  }
  return paths;
}

CheckCase make_check(std::string name, Heads heads, int head_dim, int page_size, DType dtype, std::vector<Path> paths) {
  CheckCase result;
  result.name = std::move(name);
  result.shape = {heads, head_dim, page_size, dtype};
  result.paths = std::move(paths);
  return result;
}

void chunk_attention(const Visit& visit) {
  for (int page_size : {32, 64, 128, 256, 512, 1024}) {
    visit(make_check(fmt::format("chunk_attention: 32 x (1000 + 1000), page {}", page_size), {2, 2}, 128, page_size,
                     DType::float16, star(32, 1000, 1000)));
  }
  visit(make_check("chunk_attention: 15 sequences, 256 chunks", {16, 16}, 128, 64, DType::float16,
                   star(15, 64, 17 * 64)));
  // Token sequences 1 2 3 4 5 and 1 2 3 4 6 7; then the tree of its own test after all insertions.
  visit(make_check("chunk_attention: small", {2, 2}, 4, 2, DType::float32, {{{0, 4}, {1, 1}}, {{0, 4}, {2, 2}}}));
  visit(make_check("chunk_attention: tree", {2, 2}, 4, 2, DType::float32,
                   {{{0, 1}, {1, 1}, {2, 2}, {3, 1}},
                    {{0, 1}, {1, 1}, {2, 2}, {4, 1}},
                    {{0, 1}, {1, 1}, {2, 2}},
                    {{0, 1}, {5, 1}},
                    {{0, 1}, {1, 1}},
                    {{0, 1}, {1, 1}, {2, 2}, {3, 1}}}));
}

CheckCase chunks_of_all(const char* grid, Pattern pattern, int sequences, int heads, int chunks) {
  auto result = make_check(
      fmt::format("{}: {}, {} sequences, {} heads, {} chunks", grid, to_string(pattern), sequences, heads, chunks),
      {heads, heads}, 128, 64, DType::bfloat16, star(sequences, 64 * chunks, 0));
  result.shape.pattern = pattern;
  return result;
}

void thunderkittens_port(bool quick, const Visit& visit) {
  for (Pattern pattern : {Pattern::normal, Pattern::small}) {
    for (int sequences : {8, 16, 32}) {
      for (int heads : {1, 4}) {
        for (int chunks : {1, 2, 4}) visit(chunks_of_all("tk_port chunk first", pattern, sequences, heads, chunks));
      }
    }
    for (int sequences : {1, 4}) {
      for (int heads : {1, 4}) {
        for (int chunks : {2, 4}) {
          for (int shared_chunks : {0, chunks / 2}) {
            for (int last_chunk : {64, 32}) {
              auto one = make_check(
                  fmt::format("tk_port sequence first: {}, {} sequences, {} heads, {} of {} chunks shared, last {}",
                              to_string(pattern), sequences, heads, shared_chunks, chunks, last_chunk),
                  {heads, heads}, 128, 64, DType::bfloat16,
                  star(sequences, 64 * shared_chunks, 64 * (chunks - shared_chunks - 1) + last_chunk));
              one.shape.pattern = pattern;
              visit(one);
            }
          }
        }
      }
    }
  }
  for (Pattern pattern : every_pattern) {
    for (int sequences : {1, 2, 4, 8, 16, 24, 32}) {
      for (int heads : {1, 2, 4, 8, 12, 16}) {
        for (int chunks : {1, 2, 3, 4, 6, 8, 12, 16}) {
          if (quick && (sequences % 24 != 0 || heads % 12 != 0 || chunks % 3 != 0)) continue;
          auto one = chunks_of_all("tk_port wide", pattern, sequences, heads, chunks);
          one.own_dtype_only = true;
          visit(one);
        }
      }
    }
  }
}

void hydragen(bool quick, const Visit& visit) {
  const std::vector<std::vector<std::vector<int>>> trees = {{{1}, {10}},
                                                            {{3}, {6, 6}},
                                                            {{3}, {6, 7}},
                                                            {{7, 7}, {9, 10, 11, 4}, {129, 2, 3, 4, 5, 6, 7, 128}},
                                                            {{16384}, {1, 128, 256}}};
  for (int kv_heads : {1, 8}) {
    for (std::size_t i = 0; i < trees.size(); ++i) {
      if (quick && trees[i][0][0] > 1000) continue;
      visit(make_check(fmt::format("hydragen: tree {}, {} KV heads", i + 1, kv_heads), {8, kv_heads}, 128, 16,
                       DType::float16, tree(trees[i])));
    }
  }
}

/// What none of the published systems tested.
void corners(bool quick, const Visit& visit) {
  const auto add = [&](const char* name, std::vector<Path> paths, std::vector<std::int32_t> qo_lens = {1},
                       Heads heads = {8, 2}, int head_dim = 64, int page_size = 16) {
    auto one =
        make_check(fmt::format("corners: {}", name), heads, head_dim, page_size, DType::bfloat16, std::move(paths));
    one.qo_lens = std::move(qo_lens);
    visit(one);
  };
  add("batch of 300 on a tree", tree({{40}, std::vector<int>(10, 24), std::vector<int>(300, 9)}));
  add("prefix not aligned to pages", star(7, 37, 21));
  add("one-token nodes", tree({{1}, {1, 1}, {1, 1, 1, 1}}), {1}, {8, 2}, 64, 1);
  add("requests end inside a shared page", {{{0, 70}}, {{0, 40}}, {{0, 33}}, {{0, 70}, {1, 9}}});
  add("identical requests", star(9, 100, 0));
  add("lengths 0 and 1", {{}, {{0, 1}}, {{1, 1}}, {{2, 50}}}, {0, 1, 1, 1});
  add("several roots", {{{0, 64}, {2, 5}}, {{0, 64}, {3, 8}}, {{1, 48}, {4, 30}}, {{1, 48}, {5, 1}}, {{6, 20}}});
  add("one request alone", star(1, 0, 333));
  add("all requests unshared", star(12, 0, 130));
  {
    Path deep;
    std::vector<Path> paths;
    for (int depth = 0; depth < 64; ++depth) {
      deep.push_back({2 * depth, 16});
      paths.push_back(deep);
      paths.back().push_back({2 * depth + 1, 3});
    }
    add("depth 64", paths);
  }
  add("multi-query attention", star(6, 200, 40), {1}, {16, 1});
  add("group of 7, head_dim 80", star(5, 90, 30), {1}, {14, 2}, 80);
  add("head_dim 1", star(3, 20, 5), {1}, {2, 1}, 1);
  add("head_dim 63", star(3, 20, 5), {1}, {2, 2}, 63);
  add("head_dim 129", star(3, 20, 5), {1}, {2, 2}, 129);
  add("head_dim 256", star(3, 100, 50), {1}, {4, 2}, 256);
  add("four query tokens", star(6, 64, 20), {4});
  add("query tokens reach into the shared part", star(4, 60, 0), {9});
  add("mixed numbers of query tokens", star(4, 50, 12), {1, 0, 12, 5});
  add("whole prompt as queries", star(2, 0, 70), {70});
  add("page of 1024", star(3, 1024, 77), {1}, {4, 4}, 64, 1024);
  if (!quick) add("long request", star(2, 30000, 100), {1}, {8, 2}, 128);
  for (KvLayout layout : {KvLayout::hnd, KvLayout::nhd}) {
    for (float scale : {1.0f, 60.0f}) {  // scores up to about 1e2 and 1e4
      auto one = make_check(fmt::format("corners: scale {}, {}", scale, layout == KvLayout::hnd ? "HND" : "NHD"),
                            {8, 2}, 128, 16, DType::bfloat16, star(6, 150, 30));
      one.shape.layout = layout;
      one.shape.sm_scale = scale;
      one.shape.pattern = Pattern::large;
      visit(one);
    }
  }
}

}  // namespace

void for_each_check_case(bool quick, const Visit& visit) {
  chunk_attention(visit);
  thunderkittens_port(quick, visit);
  hydragen(quick, visit);
  corners(quick, visit);
}

}  // namespace trunkline::tools
