// What from_block_tables and advance refuse, with the words of each refusal. Nothing is changed by a refused advance.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "exec/expect_error.hpp"
#include "forest/batch.hpp"

namespace trunkline::test {
namespace {

using Ints = std::vector<std::int32_t>;

TEST(BlockTablesErrors, DenseSizesThatDoNotAgree) {
  const Ints entries(10, 0);
  expect_error([&] { BlockTables::dense(entries, -1, 5); },
               "invalid_argument: tables.num_requests: expected >= 0, got -1");
  expect_error([&] { BlockTables::dense(entries, 2, -5); },
               "invalid_argument: tables.max_pages: expected >= 0, got -5");
  expect_error([&] { BlockTables::dense(entries, 2, 5, 4); },
               "invalid_argument: tables.row_stride: expected at least max_pages 5, got 4");
  expect_error([&] { BlockTables::dense(entries, 3, 5); },
               "invalid_argument: tables.entries: expected at least 15 entries, got 10");
  expect_error([&] { BlockTables::dense(entries, 2, 4, 7); },
               "invalid_argument: tables.entries: expected at least 11 entries, got 10");
  // Beyond 32 bits.
  expect_error([&] { BlockTables::dense(entries, 1 << 20, 1 << 20); },
               "invalid_argument: tables.entries: expected at least 1099511627776 entries, got 10");
  EXPECT_EQ(BlockTables::dense(entries, 2, 4, 6).row_stride, 6);
  EXPECT_EQ(BlockTables::dense(entries, 2, 5).row_stride, 5);
}

TEST(BlockTablesErrors, CsrSizesThatDoNotAgree) {
  const Ints indices(4, 0);
  expect_error([&] { BlockTables::csr({}, indices); },
               "invalid_argument: tables.indptr: expected num_requests + 1 entries, got none");
  expect_error([&] { BlockTables::csr(Ints{-1, 2}, indices); },
               "invalid_argument: tables.indptr[0]: expected >= 0, got -1");
  expect_error([&] { BlockTables::csr(Ints{0, 3, 2}, indices); },
               "invalid_argument: tables.indptr[2]: expected at least the entry before, 3, got 2");
  expect_error([&] { BlockTables::csr(Ints{0, 5}, indices); },
               "invalid_argument: tables.indptr: expected entries up to the number of indices, 4, got 5");
  EXPECT_EQ(BlockTables::csr(Ints{0, 1, 4}, indices).max_pages, 3);
}

TEST(BlockTablesErrors, ViewsMadeByHandAreCheckedToo) {
  const Ints entries(4, 0), indptr = {0, 2};
  BlockTables tables = BlockTables::csr(indptr, entries);
  tables.num_requests = 2;
  expect_error([&] { Forest::from_block_tables(tables, Ints{1, 1}, 1); },
               "invalid_argument: tables.indptr: expected 3 entries, got 2");
}

void expect_refused(const std::string& what, const Ints& seq_lens, int page_size = 4,
                    const BatchOptions& options = {}) {
  static const Ints entries = {1, 2, 3, 1, -5, 4};
  expect_error([&] { Forest::from_block_tables(BlockTables::dense(entries, 2, 3), seq_lens, page_size, options); },
               "invalid_argument: " + what);
}

TEST(FromBlockTablesErrors, PageSize) {
  expect_refused("page_size: expected 1 to 1024, got 0", {1, 1}, 0);
  expect_refused("page_size: expected 1 to 1024, got -16", {1, 1}, -16);
  expect_refused("page_size: expected 1 to 1024, got 1025", {1, 1}, 1025);
}

TEST(FromBlockTablesErrors, SeqLens) {
  expect_refused("seq_lens: expected 2 entries, one per request of the tables, got 1", {1});
  expect_refused("seq_lens[1]: expected >= 0, got -1", {1, -1});
  expect_refused("seq_lens[0]: expected at most 12, the tokens of the request's 3 table entries, got 13", {13, 1});
  expect_refused("seq_lens[1]: expected at most 12, the tokens of the request's 3 table entries, got 2147483647",
                 {1, INT32_MAX});
  expect_error([] { Forest::from_block_tables(BlockTables::csr(Ints{0, 2, 3}, Ints{1, 2, 3}), Ints{8, 5}, 4); },
               "invalid_argument: seq_lens[1]: expected at most 4, the tokens of the request's 1 table entries, got 5");
}

TEST(FromBlockTablesErrors, QoLens) {
  expect_refused("qo_lens: expected 2 entries or none, got 3", {1, 1}, 4, {Ints{1, 1, 1}, {}, 0});
  expect_refused("qo_lens[1]: expected >= 0, got -2", {1, 1}, 4, {Ints{1, -2}, {}, 0});
  expect_refused("qo_lens[0]: expected at most seq_len 5, got 6", {5, 1}, 4, {Ints{6, 1}, {}, 0});
}

TEST(FromBlockTablesErrors, RequestIds) {
  const std::vector<RequestId> one = {4}, twice = {-9, -9};
  expect_refused("request_ids: expected 2 entries or none, got 1", {1, 1}, 4, {{}, one, 0});
  expect_refused("request_ids: expected unique ids, got -9 twice", {1, 1}, 4, {{}, twice, 0});
}

TEST(FromBlockTablesErrors, Pages) {
  expect_refused("num_pages: expected >= 0, got -3", {1, 1}, 4, {{}, {}, -3});
  expect_refused("tables[1][1]: expected a page >= 0, got -5", {1, 5});
  expect_refused("tables[1][1]: expected a page in [0, 4), got -5", {1, 5}, 4, {{}, {}, 4});
  expect_refused("tables[0][2]: expected a page in [0, 3), got 3", {9, 4}, 4, {{}, {}, 3});
  // The bad entry is not used, and pages right up to the pool's end are legal.
  const Ints entries = {1, 2, 3, 1, -5, 4};
  const Forest forest =
      Forest::from_block_tables(BlockTables::dense(entries, 2, 3), Ints{12, 4}, 4, {{}, {}, std::int64_t{4}});
  EXPECT_EQ(forest.distinct_tokens(), 12);
  Forest::from_block_tables(BlockTables::dense(Ints{INT32_MAX}, 1, 1), Ints{1}, 4, {{}, {}, std::int64_t{1} << 40});
}

class AdvanceErrors : public testing::Test {
 protected:
  AdvanceErrors() {
    batch = Batch::of(4, {{10, {1, 2, 3}}, {6, {1, 2}}, {0, {}}});
    batch.requests[2].qo_len = 5;
    forest = batch.dense(0, 100);
  }

  /// Refused in these words, after which nothing is different.
  void expect_refused(const std::string& what, const std::function<void(Deltas&)>& change) {
    Deltas deltas;
    deltas.grow.push_back({0, 1, {}});  // legal, and not carried out either
    deltas.replace.push_back({1, 1, {50}});
    change(deltas);
    const auto version = forest.version();
    expect_error([&] { forest.advance(deltas); }, "invalid_argument: " + what);
    EXPECT_EQ(forest.version(), version);
    EXPECT_EQ(difference(forest, batch), "");
    EXPECT_TRUE(forest.table_changes().empty());
  }

  Batch batch;
  Forest forest;
};

TEST_F(AdvanceErrors, UnknownRequests) {
  expect_refused("deltas.leave[0]: expected the id of a request in the forest, got 9",
                 [](Deltas& deltas) { deltas.leave = {9}; });
  expect_refused("deltas.replace[1].request: expected the id of a request in the forest, got 9",
                 [](Deltas& deltas) { deltas.replace.push_back({9, 0, {}}); });
  expect_refused("deltas.grow[1].request: expected the id of a request in the forest, got -1",
                 [](Deltas& deltas) { deltas.grow.push_back({-1, 1, {}}); });
  expect_refused("deltas.qo_lens[0].request: expected the id of a request in the forest, got 9",
                 [](Deltas& deltas) { deltas.qo_lens.push_back({9, 1}); });
}

TEST_F(AdvanceErrors, RequestsThatLeftInTheSameStep) {
  expect_refused("deltas.leave[1]: expected the id of a request in the forest, got 2",
                 [](Deltas& deltas) { deltas.leave = {2, 2}; });
  expect_refused("deltas.grow[0].request: expected the id of a request in the forest, got 0",
                 [](Deltas& deltas) { deltas.leave = {0}; });
  expect_refused("deltas.qo_lens[0].request: expected the id of a request in the forest, got 2", [](Deltas& deltas) {
    deltas.leave = {2};
    deltas.qo_lens.push_back({2, 1});
  });
}

TEST_F(AdvanceErrors, Replacements) {
  expect_refused("deltas.replace[1]: expected pages within the request's [0, 3), got [-1, 0)",
                 [](Deltas& deltas) { deltas.replace.push_back({0, -1, {5}}); });
  expect_refused("deltas.replace[1]: expected pages within the request's [0, 3), got [2, 4)",
                 [](Deltas& deltas) { deltas.replace.push_back({0, 2, {5, 6}}); });
  expect_refused("deltas.replace[1]: expected pages within the request's [0, 0), got [0, 1)",
                 [](Deltas& deltas) { deltas.replace.push_back({2, 0, {5}}); });
  expect_refused("deltas.replace[1].pages[1]: expected a page in [0, 100), got 100",
                 [](Deltas& deltas) { deltas.replace.push_back({0, 0, {5, 100}}); });
  // Replacing comes before growing: pages that this step appends are not there yet.
  expect_refused("deltas.replace[1]: expected pages within the request's [0, 2), got [2, 3)", [](Deltas& deltas) {
    deltas.grow.push_back({1, 4, {7}});
    deltas.replace.push_back({1, 2, {8}});
  });
}

TEST_F(AdvanceErrors, Growth) {
  expect_refused("deltas.grow[1].num_tokens: expected 0 to 2147483641, got -1",
                 [](Deltas& deltas) { deltas.grow.push_back({1, -1, {}}); });
  expect_refused("deltas.grow[1].num_tokens: expected 0 to 2147483641, got 2147483642",
                 [](Deltas& deltas) { deltas.grow.push_back({1, INT32_MAX - 5, {}}); });
  expect_refused("deltas.grow[1].pages: expected 1 pages, got 0",
                 [](Deltas& deltas) { deltas.grow.push_back({1, 3, {}}); });
  expect_refused("deltas.grow[1].pages: expected 0 pages, got 1",
                 [](Deltas& deltas) { deltas.grow.push_back({1, 2, {7}}); });
  expect_refused("deltas.grow[1].pages[0]: expected a page in [0, 100), got -7",
                 [](Deltas& deltas) { deltas.grow.push_back({1, 3, {-7}}); });
  // Growing twice adds up.
  expect_refused("deltas.grow[2].pages: expected 1 pages, got 0", [](Deltas& deltas) {
    deltas.grow.push_back({1, 2, {}});
    deltas.grow.push_back({1, 1, {}});
  });
}

TEST_F(AdvanceErrors, QoLens) {
  expect_refused("deltas.qo_lens[0].qo_len: expected >= 0, got -1",
                 [](Deltas& deltas) { deltas.qo_lens.push_back({1, -1}); });
  expect_refused("deltas.qo_lens[0].qo_len: expected at most seq_len 11, got 12",
                 [](Deltas& deltas) { deltas.qo_lens.push_back({0, 12}); });
  expect_refused("deltas.grow[1].num_tokens: expected at least qo_len 5 tokens, got 4",
                 [](Deltas& deltas) { deltas.grow.push_back({2, 4, {7}}); });
}

TEST_F(AdvanceErrors, Joins) {
  expect_refused("deltas.join[0].request: expected an id that is not in the forest, got 1",
                 [](Deltas& deltas) { deltas.join.push_back({1, 0, 1, {}}); });
  expect_refused("deltas.join[2].request: expected an id that joins once, got 8",
                 [](Deltas& deltas) { deltas.join = {{8, 0, 1, {}}, {7, 0, 1, {}}, {8, 0, 1, {}}}; });
  expect_refused("deltas.join[0].seq_len: expected >= 0, got -1",
                 [](Deltas& deltas) { deltas.join.push_back({8, -1, 1, {}}); });
  expect_refused("deltas.join[0].qo_len: expected at most seq_len 3, got 4",
                 [](Deltas& deltas) { deltas.join.push_back({8, 3, 4, {7}}); });
  expect_refused("deltas.join[0].qo_len: expected >= 0, got -4",
                 [](Deltas& deltas) { deltas.join.push_back({8, 3, -4, {7}}); });
  expect_refused("deltas.join[0].pages: expected 2 pages, got 1",
                 [](Deltas& deltas) { deltas.join.push_back({8, 5, 1, {7}}); });
  expect_refused("deltas.join[0].pages[1]: expected a page in [0, 100), got 2147483647",
                 [](Deltas& deltas) { deltas.join.push_back({8, 5, 1, {7, INT32_MAX}}); });
}

TEST_F(AdvanceErrors, AForestWithoutBuilder) {
  forest = Forest();
  expect_error([&] { forest.advance({}); },
               "invalid_argument: forest: expected one made by a builder, got one without page size");
}

TEST_F(AdvanceErrors, TheForestGoesOnAfterARefusal) {
  Deltas deltas;
  deltas.grow.push_back({0, 1, {}});
  deltas.join.push_back({1, 0, 1, {}});
  EXPECT_THROW(forest.advance(deltas), Error);
  deltas.join[0].request = 8;
  forest.advance(deltas);
  batch.apply(deltas);
  EXPECT_EQ(difference(forest, batch), "");
}

}  // namespace
}  // namespace trunkline::test
