// Merge entries on every SIMD target: against the exact combination in double precision.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "kernels/cpu/kernels.hpp"
#include "kernels/reference/formats.hpp"

namespace trunkline::test {
namespace {

using kernels::AttentionParams;
using kernels::Element;
using kernels::cpu::targets;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

/// Rows of two KV heads and a group of 3, out and lse strided; sources at chosen partial rows.
struct MergeProblem {
  static constexpr int num_kv_heads = 2, group_size = 3, row_begin = 2;

  MergeProblem(int num_rows_, int num_sources, int head_dim_, DType dtype_ = DType::float32)
      : num_rows(num_rows_), head_dim(head_dim_), dtype(dtype_), random(static_cast<unsigned>(head_dim_)) {
    for (int s = 0; s < num_sources; ++s) sources.push_back(1 + (num_sources - 1 - s) * (num_rows + 1));
    const int partial_rows = num_sources * (num_rows + 1) + 1;
    out.assign(static_cast<std::size_t>(partial_rows) * num_kv_heads * head_dim, nan);
    lse.assign(static_cast<std::size_t>(partial_rows) * num_kv_heads, nan);
    std::normal_distribution<float> normal;
    for (int s = 0; s < num_sources; ++s) {
      for (int r = 0; r < num_rows; ++r) {
        for (int h = 0; h < num_kv_heads; ++h) {
          source_lse(s, r, h) = 3 * normal(random);
          for (int i = 0; i < head_dim; ++i) source_out(s, r, h)[i] = normal(random);
        }
      }
    }
  }

  std::size_t index(int source, int row, int head) const {
    return static_cast<std::size_t>((sources[static_cast<std::size_t>(source)] + row) * num_kv_heads + head);
  }
  float& source_lse(int source, int row, int head) { return lse[index(source, row, head)]; }
  float* source_out(int source, int row, int head) {
    return &out[index(source, row, head) * static_cast<std::size_t>(head_dim)];
  }
  /// A source without tokens: its out must not be read into the result.
  void make_empty(int source, int row, int head) {
    source_lse(source, row, head) = -infinity;
    for (int i = 0; i < head_dim; ++i) source_out(source, row, head)[i] = nan;
  }

  void check(const kernels::cpu::Target& target) {
    const int num_tokens = (row_begin + num_rows - 1) / group_size + 1, heads = num_kv_heads * group_size;
    std::vector<QueryToken> tokens;
    for (int i = 0; i < num_tokens; ++i) tokens.push_back({num_tokens - 1 - i, 0, 0, 0});
    const Merge entry{row_begin, num_rows, 0, static_cast<std::int32_t>(sources.size())};
    AttentionParams params{};
    params.num_kv_heads = num_kv_heads;
    params.group_size = group_size;
    params.head_dim = head_dim;
    params.q_element = dtype == DType::float32 ? Element::f32 : dtype == DType::float16 ? Element::f16 : Element::bf16;
    params.query_tokens = tokens.data();
    params.merges = &entry;
    params.merge_sources = sources.data();
    params.partial_out = out.data();
    params.partial_lse = lse.data();
    std::vector<std::byte> result(static_cast<std::size_t>(num_tokens * heads * head_dim) * size_of(dtype));
    std::vector<float> result_lse(static_cast<std::size_t>(num_tokens * heads), nan);
    params.out = {result.data(), heads * head_dim, head_dim};
    params.lse = result_lse.data();
    params.lse_token_stride = heads;
    params.lse_head_stride = 1;
    const std::size_t bytes = (kernels::cpu::scratch_bytes(head_dim) + 63) / 64 * 64;
    const std::unique_ptr<void, decltype(&std::free)> scratch(std::aligned_alloc(64, bytes), &std::free);
    for (int h = 0; h < num_kv_heads; ++h) target.merge(params, 0, h, {scratch.get(), bytes});

    for (int r = 0; r < num_rows; ++r) {
      for (int h = 0; h < num_kv_heads; ++h) {
        const int row = row_begin + r, head = h * group_size + row % group_size;
        const std::int64_t at = tokens[static_cast<std::size_t>(row / group_size)].q_index * heads + head;
        check_row(target, r, h, result.data(), at * head_dim, result_lse[static_cast<std::size_t>(at)]);
      }
    }
  }

  /// Each step of a chain of f32 merges rounds a few times: lse, both weights, two products and their sum.
  void check_row(const kernels::cpu::Target& target, int r, int h, const void* result, std::int64_t at, float got_lse) {
    const int num_sources = static_cast<int>(sources.size());
    double max = -infinity, sum = 0, greatest = 0;
    for (int s = 0; s < num_sources; ++s) max = std::max(max, double{source_lse(s, r, h)});
    std::vector<double> expected(static_cast<std::size_t>(head_dim));
    for (int s = 0; s < num_sources && max != -infinity; ++s) {
      const double weight = std::exp(source_lse(s, r, h) - max);
      sum += weight;
      if (weight == 0) continue;
      for (int i = 0; i < head_dim; ++i) {
        expected[static_cast<std::size_t>(i)] += weight * source_out(s, r, h)[i];
        greatest = std::max(greatest, std::fabs(double{source_out(s, r, h)[i]}));
      }
    }
    const double ulp_lse = reference::ulp(DType::float32, std::max(std::fabs(max), 1.0));
    for (int i = 0; i < head_dim; ++i) {
      double value = expected[static_cast<std::size_t>(i)];
      if (sum > 0) value /= sum;
      const double bound = num_sources * (3 * reference::ulp(DType::float32, greatest) + greatest * ulp_lse) +
                           2 * reference::ulp(dtype, value);
      const double got = reference::load(dtype, result, at + i);
      ASSERT_LE(std::fabs(got - value), sum > 0 ? bound : 0.0)
          << target.name << ", head_dim " << head_dim << ", row " << r << ", element " << i;
    }
    if (sum == 0) {
      EXPECT_EQ(got_lse, -infinity) << target.name;
    } else {
      EXPECT_NEAR(got_lse, max + std::log(sum), num_sources * 2 * ulp_lse) << target.name;
    }
  }

  int num_rows, head_dim;
  DType dtype;
  std::mt19937 random;
  std::vector<std::int32_t> sources;
  std::vector<float> out, lse;
};

TEST(CpuMerge, RowsSourcesHeadDims) {
  for (const int head_dim : {1, 4, 63, 64, 80, 128, 129, 256}) {
    for (const int num_sources : {1, 2, 3, 7}) {
      for (const int num_rows : {1, 5, 16}) {
        MergeProblem problem(num_rows, num_sources, head_dim);
        for (const auto& target : targets()) problem.check(target);
      }
    }
  }
}

TEST(CpuMerge, SixteenBitResults) {
  for (const DType dtype : {DType::float16, DType::bfloat16}) {
    for (const int head_dim : {1, 63, 128}) {
      MergeProblem problem(4, 3, head_dim, dtype);
      for (const auto& target : targets()) problem.check(target);
    }
  }
}

TEST(CpuMerge, NoSourcesGiveZeroAndMinusInfinity) {
  MergeProblem problem(3, 0, 100);
  for (const auto& target : targets()) problem.check(target);
}

TEST(CpuMerge, EmptyPartsVanishWhateverTheyHold) {
  for (const int empty : {0, 1, 2}) {
    MergeProblem problem(4, 3, 65);
    for (int r = 0; r < 4; r += 2) problem.make_empty(empty, r, r / 2);
    for (const auto& target : targets()) problem.check(target);
  }
}

TEST(CpuMerge, OnlyEmptyParts) {
  MergeProblem problem(2, 3, 64);
  for (int s = 0; s < 3; ++s) problem.make_empty(s, 1, 0);
  for (const auto& target : targets()) problem.check(target);
}

TEST(CpuMerge, FarApartLogSumExpsKeepTheGreaterOne) {
  MergeProblem problem(1, 3, 64);
  problem.source_lse(0, 0, 0) = -1e4f;
  problem.source_lse(1, 0, 0) = 1e4f;
  problem.source_lse(2, 0, 0) = 9.9e3f;
  for (const auto& target : targets()) problem.check(target);
}

}  // namespace
}  // namespace trunkline::test
