// Work items on every SIMD target against the double-precision reference.
#include <gtest/gtest.h>

#include <cmath>
#include <thread>
#include <vector>

#include "kernels/cpu/item_problem.hpp"
#include "kernels/cpu/kernels.hpp"

namespace trunkline::test {
namespace {

using kernels::cpu::targets;

void check_on_all_targets(const ItemSpec& spec) {
  ItemProblem problem(spec);
  for (const kernels::cpu::Target& target : targets()) EXPECT_TRUE(problem.run_and_check(target));
}

/// Walks through the values of one dimension of a grid while others are in the outer loops, so that all meet.
template <class T>
class Cycle {
 public:
  explicit Cycle(std::vector<T> values) : values_(std::move(values)) {}
  const T& next() { return values_[i_++ % values_.size()]; }

 private:
  std::vector<T> values_;
  std::size_t i_ = 0;
};

const std::vector<int> all_rows{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 16, 31, 32, 33, 64, 255, 256};
const std::vector<int> all_head_dims{1, 4, 63, 64, 80, 128, 129, 256};
const std::vector<DType> all_dtypes{DType::float32, DType::float16, DType::bfloat16};

// Cycles have lengths without a common divisor with each other's, so that combinations do not repeat early.
TEST(CpuAttend, RowsTimesHeadDims) {
  Cycle<DType> q_dtypes({DType::float32, DType::bfloat16, DType::float16});
  Cycle<DType> kv_dtypes({DType::float32, DType::bfloat16, DType::float16, DType::float32, DType::bfloat16});
  Cycle<int> page_sizes({1, 3, 16, 64, 1024, 7, 128});
  Cycle<Layout> layouts({Layout::nhd, Layout::hnd, Layout::odd_strides, Layout::nhd});
  Cycle<int> tokens({67, 1, 130, 16, 40, 2, 64, 65, 9, 33, 3});
  Cycle<int> groups({1, 2, 4, 3, 8, 1, 5, 7, 16, 6, 12, 10, 9});
  unsigned seed = 100;
  for (const int num_rows : all_rows) {
    for (const int head_dim : all_head_dims) {
      ItemSpec spec;
      spec.num_rows = num_rows;
      spec.head_dim = head_dim;
      spec.q_dtype = q_dtypes.next();
      spec.kv_dtype = kv_dtypes.next();
      spec.page_size = page_sizes.next();
      spec.layout = layouts.next();
      spec.segment_tokens = {tokens.next()};
      spec.group_size = groups.next();
      spec.num_kv_heads = 1 + static_cast<int>(seed % 2);
      spec.partial = seed % 3 == 0;
      spec.seed = seed++;
      check_on_all_targets(spec);
    }
  }
}

TEST(CpuAttend, DtypesOfQueryAndCache) {
  for (const DType q : all_dtypes) {
    for (const DType kv : all_dtypes) {
      for (const int num_rows : {1, 2, 4, 8, 9, 32, 48}) {
        check_on_all_targets({.num_rows = num_rows, .q_dtype = q, .kv_dtype = kv, .segment_tokens = {150}});
      }
    }
  }
}

TEST(CpuAttend, MasksOfEveryKind) {
  unsigned seed = 7;
  for (const Mask mask : {Mask::causal, Mask::random, Mask::nothing}) {
    for (const bool seq_lens : {false, true}) {
      for (const int num_rows : {1, 2, 3, 4, 7, 8, 9, 17, 33, 100, 256}) {
        check_on_all_targets({.num_rows = num_rows,
                              .head_dim = num_rows > 64 ? 64 : 128,
                              .q_dtype = all_dtypes[seed % 3],
                              .kv_dtype = all_dtypes[seed / 3 % 3],
                              .page_size = 16,
                              .segment_tokens = {30, 1, 100},
                              .group_size = 1 + num_rows % 4,
                              .mask = mask,
                              .seq_lens = seq_lens,
                              .partial = seed % 2 == 0,
                              .seed = seed});
        ++seed;
      }
    }
  }
}

TEST(CpuAttend, SequenceLengthsBelowThePlannedOnes) {
  for (const int num_rows : {1, 4, 8, 24}) {
    check_on_all_targets({.num_rows = num_rows, .segment_tokens = {70}, .group_size = 1, .seq_lens = true});
    check_on_all_targets({.num_rows = num_rows, .segment_tokens = {70}, .group_size = num_rows, .seq_lens = true});
  }
}

TEST(CpuAttend, ManySegments) {
  for (const int num_rows : {1, 4, 9, 40}) {
    check_on_all_targets({.num_rows = num_rows, .page_size = 3, .segment_tokens = {1, 2, 0, 5, 64, 63, 1, 1, 17}});
    check_on_all_targets({.num_rows = num_rows,
                          .page_size = 16,
                          .segment_tokens = {16, 16, 16, 16, 100},
                          .first_token = 0,
                          .mask = Mask::random,
                          .partial = true});
  }
}

TEST(CpuAttend, NoTokens) {
  for (const int num_rows : {1, 4, 9}) {
    check_on_all_targets({.num_rows = num_rows, .segment_tokens = {}});
    check_on_all_targets({.num_rows = num_rows, .segment_tokens = {0, 0}, .partial = true});
  }
}

// Scores up to 1e4: exp overflows without the maximum, and rounding of a score shows.
TEST(CpuAttend, LargeScores) {
  for (const double magnitude : {30.0, 300.0, 3000.0}) {
    for (const int num_rows : {1, 4, 8, 9, 32}) {
      check_on_all_targets({.num_rows = num_rows, .segment_tokens = {200}, .q_magnitude = magnitude});
      check_on_all_targets({.num_rows = num_rows,
                            .q_dtype = DType::bfloat16,
                            .kv_dtype = DType::bfloat16,
                            .segment_tokens = {200},
                            .q_magnitude = magnitude});
    }
  }
}

TEST(CpuAttend, ScaleOfEitherSignAndZero) {
  for (const float scale : {-0.25f, 1.0f, 1e-30f}) {
    for (const int num_rows : {3, 12}) {
      check_on_all_targets({.num_rows = num_rows, .mask = Mask::random, .scale = scale});
    }
  }
}

// More heads than go through a tile together, with and without a rest, at every number of them that rows allow.
TEST(CpuAttend, ManyHeads) {
  unsigned seed = 40;
  for (const int num_rows : {3, 9, 32, 64, 65, 200}) {
    for (const int num_kv_heads : {8, 11}) {
      for (const DType kv_dtype : {DType::float32, DType::bfloat16}) {
        check_on_all_targets({.num_rows = num_rows,
                              .head_dim = seed % 4 == 0 ? 66 : 64,
                              .kv_dtype = kv_dtype,
                              .segment_tokens = {45, 3},
                              .num_kv_heads = num_kv_heads,
                              .layout = seed % 3 == 0 ? Layout::hnd : Layout::nhd,
                              .mask = seed % 2 == 0 ? Mask::random : Mask::none,
                              .seed = seed});
        ++seed;
      }
    }
  }
}

TEST(CpuAttend, LseMayBeUnwanted) {
  for (const int num_rows : {2, 20}) check_on_all_targets({.num_rows = num_rows, .want_lse = false});
}

TEST(CpuAttend, LargeManyTokens) {
  for (const DType dtype : all_dtypes) {
    for (const int num_rows : {1, 4, 32}) {
      check_on_all_targets(
          {.num_rows = num_rows, .q_dtype = dtype, .kv_dtype = dtype, .segment_tokens = {5000}, .num_kv_heads = 1});
    }
  }
}

TEST(CpuAttend, SameBitsInEveryThreadAndRun) {
  for (const int num_rows : {4, 40}) {
    ItemProblem problem({.num_rows = num_rows, .segment_tokens = {300}});
    for (const kernels::cpu::Target& target : targets()) {
      const std::vector<std::byte> here = problem.run(target);
      std::vector<std::byte> there;
      std::thread([&] { there = problem.run(target); }).join();
      EXPECT_EQ(here, there) << target.name;
    }
  }
}

TEST(CpuAttend, SameBitsHoweverManyHeadsAreGivenAtOnce) {
  for (const int num_rows : {1, 4, 8, 40, 150}) {
    ItemProblem problem({.num_rows = num_rows, .head_dim = 64, .segment_tokens = {300, 7}, .num_kv_heads = 19});
    for (const kernels::cpu::Target& target : targets()) {
      const std::vector<std::byte> all = problem.run(target, 19);  // more than go through a tile together
      for (const int heads_at_once : {1, 2, 7}) {
        EXPECT_EQ(problem.run(target, heads_at_once), all) << target.name << ", " << heads_at_once << " at once";
      }
    }
  }
}

}  // namespace
}  // namespace trunkline::test
