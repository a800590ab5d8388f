// The oracle against results worked out by hand, and its bounds against evaluations that are good and that are wrong.
#include "trunkline/reference.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <random>

#include "kernels/reference/small_batch.hpp"

namespace trunkline {
namespace {

using testing::DoubleNear;
using testing::Each;
using testing::ElementsAre;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double exact = 1e-15;

class ReferenceOfDType : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(DTypes, ReferenceOfDType, testing::Values(DType::float32, DType::float16, DType::bfloat16),
                         [](const auto& param_info) { return to_string(param_info.param); });

TEST_P(ReferenceOfDType, OneTokenIsItsValue) {
  SmallBatch batch(GetParam(), 1, 4, 1, 1, 2, 1);
  batch.seq_lens = {1};
  batch.set_q(0, 0, {2.0f, -1.0f});
  batch.set_token(0, 0, 0, {3.0f, 0.5f}, {-7.0f, 0.25f});
  const ReferenceResult result = batch.attention(BlockTables::dense(std::vector<std::int32_t>{0}, 1, 1), 0.5);
  EXPECT_THAT(result.out, ElementsAre(-7.0, 0.25));
  EXPECT_THAT(result.lse, ElementsAre(0.5 * 5.5));
}

TEST_P(ReferenceOfDType, WeightsAreTheSoftmaxOfScores) {
  // Scores 0 and ln 3, as near as the dtype has them: weights 1/4 and 3/4.
  SmallBatch batch(GetParam(), 1, 2, 1, 1, 1, 1);
  const double score = reference::round_to(GetParam(), std::log(3.0));
  batch.seq_lens = {2};
  batch.set_q(0, 0, {1.0f});
  batch.set_token(0, 0, 0, {0.0f}, {8.0f});
  batch.set_token(0, 1, 0, {static_cast<float>(score)}, {-4.0f});
  const ReferenceResult result = batch.attention(BlockTables::dense(std::vector<std::int32_t>{0}, 1, 1));
  const double weight = 1 / (1 + std::exp(-score));
  EXPECT_THAT(result.out, ElementsAre(DoubleNear(8 * (1 - weight) - 4 * weight, exact)));
  EXPECT_THAT(result.lse, ElementsAre(DoubleNear(std::log1p(std::exp(score)), exact)));
}

TEST(Reference, PagesAreReadInTheTablesOrder) {
  // Positions 0, 1 in page 2, position 2 in page 0; the rest of the memory is NaN.
  SmallBatch batch(DType::float32, 3, 2, 1, 1, 1, 1);
  batch.seq_lens = {3};
  batch.set_q(0, 0, {0.0f});
  batch.set_token(2, 0, 0, {1.0f}, {1.0f});
  batch.set_token(2, 1, 0, {1.0f}, {2.0f});
  batch.set_token(0, 0, 0, {1.0f}, {6.0f});
  const std::vector<std::int32_t> entries{2, 0, -9};  // an entry beyond the length is not read
  const ReferenceResult result = batch.attention(BlockTables::dense(entries, 1, 3));
  EXPECT_THAT(result.out, ElementsAre(DoubleNear(3.0, exact)));
  EXPECT_THAT(result.lse, ElementsAre(DoubleNear(std::log(3.0), exact)));
}

TEST(Reference, CsrAndStridedDenseTablesAgree) {
  SmallBatch batch(DType::float32, 3, 1, 1, 1, 1, 2);
  batch.seq_lens = {2, 1};
  for (int page = 0; page < 3; ++page) {
    batch.set_token(page, 0, 0, {0.0f}, {static_cast<float>(page)});
  }
  batch.set_q(0, 0, {1.0f});
  batch.set_q(1, 0, {1.0f});
  const std::vector<std::int32_t> dense{1, 2, -1, -1, 0, -1, -1, -1}, indptr{0, 2, 3}, indices{1, 2, 0};
  EXPECT_THAT(batch.attention(BlockTables::dense(dense, 2, 2, 4)).out, ElementsAre(1.5, 0.0));
  EXPECT_THAT(batch.attention(BlockTables::csr(indptr, indices)).out, ElementsAre(1.5, 0.0));
}

TEST(Reference, QueryTokensAreTheLastOnesAndCausal) {
  // 3 tokens of score 0, of which the last 2 ask: they see 2 and 3 tokens.
  SmallBatch batch(DType::float32, 1, 4, 1, 1, 1, 2);
  batch.seq_lens = {3}, batch.qo_lens = {2};
  for (int slot = 0; slot < 3; ++slot) batch.set_token(0, slot, 0, {0.0f}, {static_cast<float>(slot)});
  batch.set_q(0, 0, {1.0f});
  batch.set_q(1, 0, {1.0f});
  const ReferenceResult result = batch.attention(BlockTables::dense(std::vector<std::int32_t>{0}, 1, 1));
  EXPECT_THAT(result.out, ElementsAre(DoubleNear(0.5, exact), DoubleNear(1.0, exact)));
  EXPECT_THAT(result.lse, ElementsAre(DoubleNear(std::log(2.0), exact), DoubleNear(std::log(3.0), exact)));
}

TEST(Reference, RowsWithoutTokensAreZeroAndMinusInfinity) {
  // Length 0 with one query token; length 1 with three, of which two come before position 0.
  SmallBatch batch(DType::bfloat16, 1, 1, 1, 1, 2, 4);
  batch.seq_lens = {0, 1}, batch.qo_lens = {1, 3};
  batch.set_token(0, 0, 0, {1.0f, 1.0f}, {5.0f, 6.0f});
  batch.set_q(3, 0, {1.0f, 1.0f});  // the rows that see nothing keep their NaN
  const ReferenceResult result = batch.attention(BlockTables::dense(std::vector<std::int32_t>{-1, 0}, 2, 1));
  EXPECT_THAT(result.out, ElementsAre(0, 0, 0, 0, 0, 0, 5, 6));
  EXPECT_THAT(result.lse, ElementsAre(-infinity, -infinity, -infinity, 2));
  EXPECT_EQ(result.bound[5], 0.0);
  EXPECT_EQ(result.lse_bound[2], 0.0);
  EXPECT_GT(result.bound[6], 0.0);
}

TEST(Reference, NoRequestsAndNoQueryTokens) {
  SmallBatch batch(DType::float32, 1, 1, 1, 1, 1, 0);
  EXPECT_TRUE(batch.attention(BlockTables::dense({}, 0, 0)).out.empty());
  batch.seq_lens = {1}, batch.qo_lens = {0};
  EXPECT_TRUE(batch.attention(BlockTables::dense(std::vector<std::int32_t>{0}, 1, 1)).lse.empty());
}

TEST(Reference, QueryHeadsOfAGroupShareAKvHead) {
  SmallBatch batch(DType::float32, 1, 1, 6, 2, 1, 1);
  batch.seq_lens = {1};
  for (int head = 0; head < 2; ++head) batch.set_token(0, 0, head, {1.0f}, {10.0f + static_cast<float>(head)});
  for (int head = 0; head < 6; ++head) batch.set_q(0, head, {static_cast<float>(head)});
  const ReferenceResult result = batch.attention(BlockTables::dense(std::vector<std::int32_t>{0}, 1, 1));
  EXPECT_THAT(result.out, ElementsAre(10, 10, 10, 11, 11, 11));
  EXPECT_THAT(result.lse, ElementsAre(0, 1, 2, 3, 4, 5));
}

/// A random batch of two requests that share page 0, every number of the dtype.
SmallBatch random_batch(DType dtype, float deviation, int head_dim = 16) {
  SmallBatch batch(dtype, 9, 8, 4, 2, head_dim, 2);
  std::mt19937 random(11);
  std::normal_distribution<float> normal(0.0f, deviation);
  const auto values = [&] {
    std::vector<float> result(static_cast<std::size_t>(head_dim));
    for (float& value : result) value = static_cast<float>(reference::round_to(dtype, normal(random)));
    return result;
  };
  for (int page = 0; page < 9; ++page) {
    for (int slot = 0; slot < 8; ++slot) {
      for (int head = 0; head < 2; ++head) batch.set_token(page, slot, head, values(), values());
    }
  }
  for (int token = 0; token < 2; ++token) {
    for (int head = 0; head < 4; ++head) batch.set_q(token, head, values());
  }
  batch.seq_lens = {37, 40};
  return batch;
}

const std::vector<std::int32_t> random_tables{0, 3, 7, 1, 5, 0, 2, 8, 4, 6};

TEST(Reference, ChosenRowsAreTheSameRowsInTheOrderGiven) {
  const SmallBatch batch = random_batch(DType::float16, 1.0f);
  const BlockTables tables = BlockTables::dense(random_tables, 2, 5);
  const ReferenceResult all = batch.attention(tables, 0.25);
  const std::vector<ReferenceRow> rows{{1, 3}, {0, 2}, {1, 3}};
  const ReferenceResult chosen = batch.attention(tables, 0.25, rows);
  ASSERT_EQ(chosen.lse.size(), 3u);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto row = static_cast<std::size_t>(rows[i].token * 4 + rows[i].head);
    EXPECT_EQ(chosen.lse[i], all.lse[row]);
    EXPECT_EQ(chosen.lse_bound[i], all.lse_bound[row]);
    for (std::size_t j = 0; j < 16; ++j) {
      EXPECT_EQ(chosen.out[i * 16 + j], all.out[row * 16 + j]);
      EXPECT_EQ(chosen.bound[i * 16 + j], all.bound[row * 16 + j]);
    }
  }
}

TEST(Reference, StridesOfQAndKvAreFollowed) {
  SmallBatch batch = random_batch(DType::float32, 1.0f);
  const BlockTables tables = BlockTables::dense(random_tables, 2, 5);
  const ReferenceResult expected = batch.attention(tables);
  // q with heads before tokens and rows padded; K and V apart, HND.
  std::vector<float> q(2 * 4 * 19, NAN), k(9 * 2 * 8 * 16, NAN), v = k;
  const KvView apart = KvView::separate(k.data(), v.data(), DType::float32, KvLayout::hnd, 9, 8, 2, 16);
  for (int page = 0; page < 9; ++page) {
    for (int slot = 0; slot < 8; ++slot) {
      for (int head = 0; head < 2; ++head) {
        for (int i = 0; i < 16; ++i) {
          const auto at = [&](const KvView::Plane& plane) {
            return page * plane.page_stride + slot * plane.token_stride + head * plane.head_stride + i;
          };
          k[static_cast<std::size_t>(at(apart.k))] = static_cast<const float*>(batch.kv.k.data)[at(batch.kv.k)];
          v[static_cast<std::size_t>(at(apart.v))] = static_cast<const float*>(batch.kv.v.data)[at(batch.kv.v)];
        }
      }
    }
  }
  TensorView q_view = contiguous(q.data(), DType::float32, {2, 4, 16, 0}, 3);
  q_view.strides = {19, 38, 1, 0};
  for (std::int64_t token = 0; token < 2; ++token) {
    for (std::int64_t head = 0; head < 4; ++head) {
      for (std::int64_t i = 0; i < 16; ++i) {
        q[static_cast<std::size_t>(token * 19 + head * 38 + i)] =
            static_cast<const float*>(batch.q.data)[token * batch.q.strides[0] + head * batch.q.strides[1] + i];
      }
    }
  }
  const ReferenceResult actual = reference_attention(q_view, apart, tables, batch.seq_lens, {}, 1.0);
  EXPECT_EQ(actual.out, expected.out);
  EXPECT_EQ(actual.lse, expected.lse);
}

TEST_P(ReferenceOfDType, BoundsAreAtLeastTwoUlpAndAtMostAFewOfTheFormat) {
  const ReferenceResult result =
      random_batch(GetParam(), 1.0f).attention(BlockTables::dense(random_tables, 2, 5), 0.25);
  for (std::size_t i = 0; i < result.out.size(); ++i) {
    EXPECT_GE(result.bound[i], 2 * reference::ulp(GetParam(), result.out[i]));
    // Values are about 1 here: a bound of more than 8 ulp of 1 would say nothing about a 16-bit kernel, nor 16 in f32.
    EXPECT_LE(result.bound[i], (GetParam() == DType::float32 ? 16 : 8) * reference::ulp(GetParam(), 1.0));
  }
  for (std::size_t row = 0; row < result.lse.size(); ++row) {
    EXPECT_GE(result.lse_bound[row], 2 * reference::ulp(DType::float32, result.lse[row]));
    EXPECT_LE(result.lse_bound[row], 8 * reference::ulp(DType::float32, 8.0));
  }
}

TEST_P(ReferenceOfDType, BoundsTellAWrongResult) {
  const SmallBatch batch = random_batch(GetParam(), 1.0f);
  const BlockTables tables = BlockTables::dense(random_tables, 2, 5);
  const ReferenceResult right = batch.attention(tables, 0.25);
  SmallBatch shorter = batch;  // the last token left out
  shorter.seq_lens = {36, 39};
  const ReferenceResult left_out = shorter.attention(tables, 0.25), rescaled = batch.attention(tables, 0.35);
  for (std::size_t row = 0; row < right.lse.size(); ++row) {
    EXPECT_GT(std::fabs(right.lse[row] * std::numbers::log2e - right.lse[row]), right.lse_bound[row]);  // base 2
  }
  for (const ReferenceResult& wrong : {left_out, rescaled}) {
    double worst = 0;  // over all rows: the token that is left out may weigh next to nothing in one of them
    for (std::size_t row = 0; row < right.lse.size(); ++row) {
      EXPECT_GT(std::fabs(wrong.lse[row] - right.lse[row]), right.lse_bound[row]);
    }
    for (std::size_t i = 0; i < right.out.size(); ++i) {
      worst = std::max(worst, std::fabs(wrong.out[i] - right.out[i]) / right.bound[i]);
    }
    EXPECT_GT(worst, 3.0);
  }
}

TEST(Reference, BoundsGrowWithTheScores) {
  // Scores of about 1e4 in f32: an ulp of a score is 1e-3, and whoever rounds one cannot do better.
  const BlockTables tables = BlockTables::dense(random_tables, 2, 5);
  const ReferenceResult small = random_batch(DType::float32, 1.0f).attention(tables, 1.0);
  const ReferenceResult large = random_batch(DType::float32, 50.0f).attention(tables, 1.0);
  for (std::size_t row = 0; row < large.lse.size(); ++row) {
    EXPECT_GT(large.lse_bound[row], 100 * small.lse_bound[row]);
    EXPECT_LT(large.lse_bound[row], 0.1);
  }
}

}  // namespace
}  // namespace trunkline
