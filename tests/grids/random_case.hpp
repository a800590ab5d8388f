// Random batches in random shapes, memory and values.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "grids/harness.hpp"

namespace trunkline::grids {

/// A source of random numbers: any from low to high, both included.
using Any = std::function<int(int low, int high)>;

/// What a random case is made of; every list is chosen from with equal chances.
struct Choices {
  std::vector<int> page_sizes;
  std::vector<int> head_dims;
  std::vector<int> group_sizes;
  std::vector<DType> q_dtypes, kv_dtypes;  // kv_dtypes empty: q's
  std::vector<Memory> memories;
  std::vector<Pattern> patterns;
  std::vector<int> longest_prefixes;  // tokens of one prefix at most
  int max_prefixes = 24;
  int max_requests = 20;
  std::vector<int> num_workers;  // to plan for
};

struct Case {
  Batch batch;
  Shape shape;
  Options options;
};

Case any_case(const Any& any, const Choices& choices);

/// Everything one needs to build it again.
std::string describe(const Case& one);

}  // namespace trunkline::grids
