// One work item with everything around it, for tests of the CPU kernels: random K, V and q where the item may read, NaN
// wherever it may not, and the double-precision result of every row.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/kernels.hpp"
#include "trunkline/tensor.hpp"

namespace trunkline::test {

enum class Layout { nhd, hnd, odd_strides };

enum class Mask {
  none,     // every row sees every token
  causal,   // query token i of n sees all but the last n - 1 - i tokens
  random,   // any interval, empty ones included, and tokens between intervals that nobody sees
  nothing,  // no row sees any token
};

struct ItemSpec {
  int num_rows = 4;
  int head_dim = 128;
  DType q_dtype = DType::float32;
  DType kv_dtype = DType::float32;
  int page_size = 16;
  std::vector<int> segment_tokens{100};  // tokens of each segment; segments leave a gap of positions between them
  int first_token = 5;
  int row_begin = 3;
  int group_size = 2;
  int num_kv_heads = 2;
  Layout layout = Layout::nhd;
  Mask mask = Mask::none;
  bool seq_lens = false;  // some requests are shorter than planned
  bool partial = false;   // to partials, else to out and lse
  bool want_lse = true;
  float scale = 0.0f;  // 0: 1 / sqrt(head_dim)
  double q_magnitude = 1.0;
  unsigned seed = 1;

  std::string describe() const;
};

class ItemProblem {
 public:
  explicit ItemProblem(const ItemSpec& spec);

  /// Runs the item on a target, over poisoned outputs. Returns what is wrong, or success.
  testing::AssertionResult run_and_check(const kernels::cpu::Target& target);

  /// The greatest error of out over its bound, after a run.
  double worst_error_ratio() const;

  /// Runs it, that many KV heads to a call, and gives every byte it can have written.
  std::vector<std::byte> run(const kernels::cpu::Target& target, int heads_at_once = 1);

 private:
  struct Expected {
    std::vector<double> out, bound;
    double lse, lse_bound;
  };

  void place_tokens();
  void choose_visibility();
  void fill_kv();
  void fill_q();
  void expect_row(int row, int head, Expected& expected) const;
  std::int64_t q_offset(int row, int head) const;
  bool sees(int query_token, std::int32_t position) const;
  double got(int row, int head, int i) const;
  testing::AssertionResult check_row(int row, int head) const;
  testing::AssertionResult check_untouched() const;
  float random_value() { return static_cast<float>(normal_(random_)); }

  ItemSpec spec_;
  int num_query_tokens_, num_qo_heads_;
  std::mt19937 random_;
  std::normal_distribution<double> normal_;
  kernels::AttentionParams params_{};

  std::vector<std::byte> k_, v_, q_, out_, kv_row_;
  std::vector<float> lse_, partial_out_, partial_lse_;
  std::vector<std::int32_t> table_, seq_lens_, positions_, position_segment_;
  std::vector<QueryToken> query_tokens_;
  std::vector<Segment> segments_;
  WorkItem item_{};
  std::vector<Expected> expected_;  // [num_rows, num_kv_heads]
};

}  // namespace trunkline::test
