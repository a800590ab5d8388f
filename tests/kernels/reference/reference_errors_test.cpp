// What the oracle refuses, with the argument's name and both sides in the message.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/reference/small_batch.hpp"
#include "trunkline/error.hpp"

namespace trunkline {
namespace {

using testing::HasSubstr;

struct ReferenceErrors : testing::Test {
  SmallBatch batch{DType::float32, 4, 2, 4, 2, 8, 2};
  std::vector<std::int32_t> entries{0, 1, 2, 3};
  BlockTables tables = BlockTables::dense(entries, 2, 2);
  double scale = 1.0;
  std::vector<ReferenceRow> rows;

  ReferenceErrors() { batch.seq_lens = {4, 3}; }

  template <class... Text>
  void expect_refused(ErrorCode code, Text... texts) {
    try {
      batch.attention(tables, scale, rows);
      ADD_FAILURE() << "not refused";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code);
      for (const char* text : {texts...}) EXPECT_THAT(error.what(), HasSubstr(text));
    }
  }
  template <class... Text>
  void expect_invalid(Text... texts) {
    expect_refused(ErrorCode::invalid_argument, texts...);
  }
};

TEST_F(ReferenceErrors, TheBatchItselfIsFine) { EXPECT_NO_THROW(batch.attention(tables)); }

TEST_F(ReferenceErrors, DTypes) {
  batch.q.dtype = DType::float8_e4m3;
  expect_refused(ErrorCode::unsupported, "q.dtype", "float8_e4m3");
  batch.q.dtype = DType::float32, batch.kv.dtype = DType::float8_e4m3;
  expect_refused(ErrorCode::unsupported, "kv.dtype", "float8_e4m3");
}

TEST_F(ReferenceErrors, ShapesOfQ) {
  batch.q.shape[1] = 3;
  expect_invalid("q.shape[1]", "multiple of the 2 KV heads", "got 3");
  batch.q.shape[1] = 4, batch.q.shape[2] = 16;
  expect_invalid("q.shape[2]", "8", "got 16");
  batch.q.shape[2] = 8, batch.q.rank = 2;
  expect_invalid("q.rank", "got 2");
  batch.q.rank = 3, batch.q.shape[0] = 1;
  expect_invalid("q.shape[0]", "2 query tokens", "got 1");
  batch.q.shape[0] = 2, batch.q.strides[2] = 3;
  expect_invalid("q.strides[2]", "expected 1", "got 3");
  batch.q.strides[2] = 1, batch.q.data = nullptr;
  expect_invalid("q.data", "null");
}

TEST_F(ReferenceErrors, Devices) {
  batch.q.device = {DeviceKind::cuda, 0};
  expect_invalid("q.device", "cpu", "cuda:0");
  batch.q.device = {}, batch.kv.device = {DeviceKind::cuda, 1};
  expect_invalid("kv.device", "cpu", "cuda:1");
}

TEST_F(ReferenceErrors, KvView) {
  batch.kv.k.data = nullptr;
  EXPECT_THROW(batch.attention(tables), Error);
}

TEST_F(ReferenceErrors, Scale) {
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    scale = bad;
    expect_invalid("scale", "finite");
  }
}

TEST_F(ReferenceErrors, Lengths) {
  batch.seq_lens = {4, -1};
  expect_invalid("seq_lens[1]", "at least 0", "got -1");
  batch.seq_lens = {5, 3};
  expect_invalid("seq_lens[0]", "4 tokens", "2 pages", "got 5");
  batch.seq_lens = {4};
  expect_invalid("seq_lens", "2 entries", "got 1");
  batch.seq_lens = {4, 3}, batch.qo_lens = {1};
  expect_invalid("qo_lens", "2 entries", "got 1");
  batch.qo_lens = {1, -2};
  expect_invalid("qo_lens[1]", "got -2");
  batch.qo_lens = {2147483647, 2147483647};
  expect_invalid("q.shape[0]", "4294967294");
}

TEST_F(ReferenceErrors, Pages) {
  entries[3] = 4;
  expect_invalid("page 1 of request 1", "[0, 4)", "got 4");
  entries[3] = -1;
  expect_invalid("page 1 of request 1", "got -1");
  batch.seq_lens[1] = 2;  // now the entry is beyond the length, and not read
  EXPECT_NO_THROW(batch.attention(tables));
}

TEST_F(ReferenceErrors, TableArrays) {
  tables.entries = tables.entries.first(3);
  expect_invalid("tables", "row of request 1", "3 entries");
  const std::vector<std::int32_t> descending{0, 3, 2}, short_indptr{0, 2};
  tables = BlockTables::dense(entries, 2, 2);
  tables.indptr = descending;
  expect_invalid("tables", "row of request 1", "[3, 2)");
  tables.indptr = short_indptr;
  expect_invalid("tables.indptr", "3 entries", "got 2");
}

TEST_F(ReferenceErrors, Rows) {
  rows = {{0, 0}, {2, 0}};
  expect_invalid("rows[1].token", "[0, 2)", "got 2");
  rows = {{0, -1}};
  expect_invalid("rows[0].head", "[0, 4)", "got -1");
}

}  // namespace
}  // namespace trunkline
