#include "grids/random_case.hpp"

#include <algorithm>
#include <sstream>

namespace trunkline::grids {
namespace {

template <class T>
const T& one_of(const Any& any, const std::vector<T>& choices) {
  return choices[static_cast<std::size_t>(any(0, static_cast<int>(choices.size()) - 1))];
}

Batch any_batch(const Any& any, const Choices& choices) {
  std::vector<Prefix> prefixes;
  const int num_prefixes = any(1, choices.max_prefixes), longest = one_of(any, choices.longest_prefixes);
  for (int i = 0; i < num_prefixes; ++i) prefixes.push_back({any(-1, i - 1), any(1, longest)});
  std::vector<int> ends;
  for (int requests = any(1, choices.max_requests); requests > 0; --requests) ends.push_back(any(-1, num_prefixes - 1));
  Batch batch = batch_of(prefixes, ends, one_of(any, choices.page_sizes));
  const int most_queries = one_of<int>(any, {1, 1, 4, 40});
  for (const std::int32_t seq_len : batch.seq_lens) {
    batch.qo_lens.push_back(std::min(any(most_queries == 1 ? 1 : 0, most_queries), std::max(1, seq_len)));
  }
  return batch;
}

Shape any_shape(const Any& any, const Choices& choices) {
  Shape shape;
  shape.num_kv_heads = any(1, 3);
  shape.num_qo_heads = shape.num_kv_heads * one_of(any, choices.group_sizes);
  shape.head_dim = one_of(any, choices.head_dims);
  shape.q_dtype = one_of(any, choices.q_dtypes);
  shape.kv_dtype = choices.kv_dtypes.empty() ? shape.q_dtype : one_of(any, choices.kv_dtypes);
  return shape;
}

Options any_options(const Any& any, const Choices& choices, const Batch& batch) {
  Options options;
  options.seed = static_cast<unsigned>(any(1, 1000000));
  options.pattern = one_of(any, choices.patterns);
  options.memory = one_of(any, choices.memories);
  options.strategies = {one_of(any, every_strategy)};
  options.max_rows = 40;
  options.num_threads = any(1, 3);
  options.num_workers = one_of(any, choices.num_workers);
  options.free_of_costs = any(0, 1) == 1;
  if (any(0, 3) == 0) {
    for (const std::int32_t seq_len : batch.seq_lens) {
      options.device_seq_lens.push_back(any(0, 2) == 0 ? any(0, seq_len) : seq_len);
    }
  }
  return options;
}

template <class T>
std::ostream& operator<<(std::ostream& stream, const std::vector<T>& values) {
  stream << "[";
  for (std::size_t i = 0; i < values.size(); ++i) stream << (i > 0 ? ", " : "") << values[i];
  return stream << "]";
}

}  // namespace

Case any_case(const Any& any, const Choices& choices) {
  Case one;
  one.batch = any_batch(any, choices);
  one.shape = any_shape(any, choices);
  one.options = any_options(any, choices, one.batch);
  return one;
}

std::string describe(const Case& one) {
  std::ostringstream text;
  text << one.shape.num_qo_heads << "/" << one.shape.num_kv_heads << " heads of " << one.shape.head_dim << ", "
       << to_string(one.shape.q_dtype) << ", KV " << to_string(one.shape.kv_dtype) << ", page size "
       << one.batch.page_size << ", seq_lens " << one.batch.seq_lens << ", qo_lens " << one.batch.qo_lens
       << ", device seq_lens " << one.options.device_seq_lens << ", tables " << one.batch.tables << ", values "
       << to_string(one.options.pattern) << " of seed " << one.options.seed << ", memory "
       << to_string(one.options.memory) << ", strategy " << to_string(one.options.strategies.front())
       << ", workers to plan for " << one.options.num_workers
       << (one.options.free_of_costs ? ", free of costs" : ", at cost");
  return text.str();
}

}  // namespace trunkline::grids
