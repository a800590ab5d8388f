// from_levels: nested groups declared by the user.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "exec/expect_error.hpp"
#include "forest/batch.hpp"

namespace trunkline::test {
namespace {

using testing::ElementsAre;

/// A level's arrays.
struct Groups {
  std::vector<std::int32_t> request_indptr, page_indptr, page_indices, num_tokens;
  Level view() const { return {request_indptr, page_indptr, page_indices, num_tokens}; }
};

Forest from_levels(const std::vector<Groups>& levels, int page_size, const BatchOptions& options = {}) {
  std::vector<Level> views;
  for (const Groups& level : levels) {
    views.push_back(level.view());
  }
  return Forest::from_levels(views, page_size, options);
}

/// Uniform groups: lengths[level][group] tokens, every page its own.
std::vector<Groups> uniform(const std::vector<std::vector<std::int32_t>>& lengths, int num_requests, int page_size) {
  std::vector<Groups> levels;
  std::int32_t page = 0;
  for (const auto& level_lengths : lengths) {
    Groups& level = levels.emplace_back();
    level.num_tokens = level_lengths;
    level.request_indptr.push_back(0);
    level.page_indptr.push_back(0);
    for (const std::int32_t num_tokens : level_lengths) {
      level.request_indptr.push_back(level.request_indptr.back() +
                                     num_requests / static_cast<std::int32_t>(level_lengths.size()));
      for (int i = 0; i < (num_tokens + page_size - 1) / page_size; ++i) {
        level.page_indices.push_back(page++);
      }
      level.page_indptr.push_back(static_cast<std::int32_t>(level.page_indices.size()));
    }
  }
  return levels;
}

/// One node per group, as many tokens as declared, the level above as parent. A level of as many groups as the one
/// above divides nothing: the two are one run of tokens.
void expect_one_node_per_group(const Forest& forest, const std::vector<std::vector<std::int32_t>>& declared,
                               int num_requests) {
  std::vector<std::vector<std::int32_t>> lengths;
  for (const auto& level : declared) {
    if (!lengths.empty() && lengths.back().size() == level.size()) {
      std::transform(level.begin(), level.end(), lengths.back().begin(), lengths.back().begin(), std::plus<>());
    } else {
      lengths.push_back(level);
    }
  }
  ASSERT_EQ(forest.num_requests(), num_requests);
  std::size_t num_groups = 0;
  for (const auto& level : lengths) {
    num_groups += level.size();
  }
  ASSERT_EQ(forest.nodes().size(), num_groups);
  std::vector<int> levels;  // by node
  for (const Node& node : forest.nodes()) {
    levels.push_back(node.parent == -1 ? 0 : levels[node.parent] + 1);
    const auto& level = lengths[levels.back()];
    const int group_size = num_requests / static_cast<int>(level.size());
    EXPECT_EQ(node.request_end - node.request_begin, group_size);
    EXPECT_EQ(node.request_begin % group_size, 0);
    EXPECT_EQ(node.num_tokens, level[node.request_begin / group_size]);
  }
}

struct HydragenShape {
  std::vector<std::vector<std::int32_t>> lengths;
  int num_requests;
};

class HydragenLevels : public testing::TestWithParam<HydragenShape> {};

TEST_P(HydragenLevels, PageSizeOne) {
  const auto& [lengths, num_requests] = GetParam();
  expect_one_node_per_group(from_levels(uniform(lengths, num_requests, 1), 1), lengths, num_requests);
}

TEST_P(HydragenLevels, PageSize16WithAlignedLengths) {
  auto [lengths, num_requests] = GetParam();
  for (std::size_t level = 0; level + 1 < lengths.size(); ++level) {
    for (auto& length : lengths[level]) {
      length *= 16;
    }
  }
  expect_one_node_per_group(from_levels(uniform(lengths, num_requests, 16), 16), lengths, num_requests);
}

// The shared lengths of Hydragen's own tests, two requests or more below each group of the last level.
INSTANTIATE_TEST_SUITE_P(Shapes, HydragenLevels,
                         testing::Values(HydragenShape{{{1}, {10}}, 4}, HydragenShape{{{3}, {6, 6}}, 6},
                                         HydragenShape{{{3}, {6, 7}}, 8},
                                         HydragenShape{{{7, 7}, {9, 10, 11, 4}, {129, 2, 3, 4, 5, 6, 7, 128}}, 16},
                                         HydragenShape{{{16384}, {1, 128, 256}}, 6}));

TEST(FromLevels, EqualsTheSameTables) {
  // Two requests share 8 tokens, the third has 4 of its own; then each goes on, the last level partly filled.
  const std::vector<Groups> levels = {{{0, 2, 3}, {0, 2, 3}, {1, 2, 3}, {8, 4}},
                                      {{0, 1, 2, 3}, {0, 1, 3, 3}, {4, 5, 6}, {3, 8, 0}}};
  const std::vector<RequestId> ids = {30, 20, 10};
  const std::vector<std::int32_t> qo_lens = {1, 2, 0};
  Batch batch = Batch::of(4, {{11, {1, 2, 4}}, {16, {1, 2, 5, 6}}, {4, {3}}});
  for (int i = 0; i < 3; ++i) {
    batch.requests[i].id = ids[i];
    batch.requests[i].qo_len = qo_lens[i];
  }
  EXPECT_TRUE(from_levels(levels, 4, {qo_lens, ids, 7}) == batch.dense());
}

TEST(FromLevels, RequestsMayHaveDifferentNumbersOfLevels) {
  // Only requests 1 and 2 go on, so the group of request 0 need not fill its page.
  const std::vector<Groups> levels = {{{0, 1, 3}, {0, 1, 2}, {1, 2}, {3, 4}}, {{1, 2, 3}, {0, 1, 2}, {7, 8}, {1, 2}}};
  EXPECT_TRUE(from_levels(levels, 4) == Batch::of(4, {{3, {1}}, {5, {2, 7}}, {6, {2, 8}}}).dense());
}

TEST(FromLevels, EmptyGroupsAndGroupsWithoutTokens) {
  const std::vector<Groups> levels = {{{0, 0, 2}, {0, 1, 1}, {9}, {2, 0}}, {{0, 2}, {0, 1}, {5}, {2}}};
  EXPECT_TRUE(from_levels(levels, 2) == Batch::of(2, {{2, {5}}, {2, {5}}}).dense());
}

TEST(FromLevels, NoLevels) { EXPECT_EQ(from_levels({}, 4).num_requests(), 0); }

TEST(FromLevels, EqualPagesOfTwoGroupsAreShared) {
  const Forest forest = from_levels({{{0, 1, 2}, {0, 1, 2}, {5, 5}, {4, 4}}}, 4);
  EXPECT_THAT(forest.nodes(), ElementsAre(Node{-1, 0, 4, 0, 2}));
}

TEST(FromLevelsErrors, ALevelThatDoesNotFillItsPages) {
  expect_error(
      [] { from_levels({{{0, 1, 3}, {0, 1, 2}, {1, 2}, {4, 3}}, {{0, 1, 3}, {0, 0, 1}, {3}, {0, 1}}}, 4); },
      "invalid_argument: levels[0].num_tokens[1]: expected a multiple of page_size 4, because group 1 of level 1 "
      "goes on after it, got 3");
  // A level without tokens in between does not hide it.
  expect_error(
      [] { from_levels({{{0, 1}, {0, 1}, {1}, {3}}, {{0, 1}, {0, 0}, {}, {0}}, {{0, 1}, {0, 1}, {2}, {1}}}, 4); },
      "invalid_argument: levels[0].num_tokens[0]: expected a multiple of page_size 4, because group 0 of level 2 goes "
      "on "
      "after it, got 3");
}

TEST(FromLevelsErrors, GroupsThatAreNotNested) {
  expect_error(
      [] { from_levels({{{0, 1, 3}, {0, 1, 2}, {1, 2}, {4, 4}}, {{0, 2, 3}, {0, 1, 2}, {3, 4}, {1, 1}}}, 4); },
      "invalid_argument: levels[1].request_indptr[0]: expected a group within one group of level 0, got requests "
      "[0, 2)");
  expect_error(
      [] { from_levels({{{0, 1}, {0, 1}, {1}, {4}}, {{0, 1, 2}, {0, 1, 2}, {3, 4}, {1, 1}}}, 4); },
      "invalid_argument: levels[1].request_indptr[1]: expected a group within one group of level 0, got requests "
      "[1, 2)");
  expect_error(
      [] { from_levels({{{0, 3}, {0, 1}, {1}, {4}}, {{1, 2}, {0, 1}, {3}, {4}}, {{0, 1}, {0, 1}, {4}, {1}}}, 4); },
      "invalid_argument: levels[2].request_indptr[0]: expected a group within one group of level 1, got requests "
      "[0, 1)");
}

TEST(FromLevelsErrors, SizesThatDoNotAgree) {
  expect_error([] { from_levels({{{}, {0}, {}, {}}}, 4); },
               "invalid_argument: levels[0].request_indptr: expected one entry more than groups, got none");
  expect_error([] { from_levels({{{1, 2}, {0, 1}, {1}, {4}}}, 4); },
               "invalid_argument: levels[0].request_indptr[0]: expected 0, got 1");
  expect_error([] { from_levels({{{0, 2, 1}, {0, 1, 1}, {1}, {4, 0}}}, 4); },
               "invalid_argument: levels[0].request_indptr[2]: expected at least 2, got 1");
  expect_error([] { from_levels({{{0, 1}, {0}, {1}, {4}}}, 4); },
               "invalid_argument: levels[0].page_indptr: expected 2 entries, got 1");
  expect_error([] { from_levels({{{0, 1}, {-1, 0}, {1}, {4}}}, 4); },
               "invalid_argument: levels[0].page_indptr[0]: expected at least 0, got -1");
  expect_error([] { from_levels({{{0, 1}, {0, 1}, {1}, {}}}, 4); },
               "invalid_argument: levels[0].num_tokens: expected 1 entries, got 0");
  expect_error([] { from_levels({{{0, 1}, {0, 2}, {1}, {8}}}, 4); },
               "invalid_argument: levels[0].page_indptr: expected entries up to the number of page indices, 1, got 2");
  expect_error([] { from_levels({{{0, 1}, {0, 2}, {1, 2}, {4}}}, 4); },
               "invalid_argument: levels[0].page_indptr[1]: expected 1 pages for the 4 tokens of group 0, got 2");
  const std::vector<std::int32_t> qo_lens = {1, 1};
  expect_error([&] { from_levels({{{0, 1}, {0, 1}, {1}, {4}}}, 4, {qo_lens, {}, 0}); },
               "invalid_argument: qo_lens: expected 1 entries or none, got 2");
}

TEST(FromLevelsErrors, ValuesOutOfRange) {
  expect_error([] { from_levels({}, 0); }, "invalid_argument: page_size: expected 1 to 1024, got 0");
  expect_error([] { from_levels({}, 4, {{}, {}, -1}); }, "invalid_argument: num_pages: expected >= 0, got -1");
  expect_error([] { from_levels({{{0, 1}, {0, 0}, {}, {-1}}}, 4); },
               "invalid_argument: levels[0].num_tokens[0]: expected >= 0, got -1");
  expect_error([] { from_levels({{{0, 1}, {0, 2}, {1, 9}, {8}}}, 4, {{}, {}, 9}); },
               "invalid_argument: levels[0].page_indices[1]: expected a page in [0, 9), got 9");
  expect_error([] { from_levels({{{0, 1}, {0, 1}, {-7}, {4}}}, 4); },
               "invalid_argument: levels[0].page_indices[0]: expected a page >= 0, got -7");
}

}  // namespace
}  // namespace trunkline::test
