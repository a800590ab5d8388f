// from_tree: forests of what a PrefixTree's requests share.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "exec/expect_error.hpp"
#include "forest/batch.hpp"
#include "trunkline/page_pool.hpp"
#include "trunkline/prefix_tree.hpp"

namespace trunkline::test {
namespace {

using testing::ElementsAre;

std::vector<std::int32_t> numbered(int count, std::int32_t first) {
  std::vector<std::int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

class FromTree : public testing::Test {
 protected:
  /// A request whose tokens are all committed.
  RequestId insert(const std::vector<std::int32_t>& tokens) {
    const RequestId request = tree.insert(tokens).request;
    tree.commit(request, static_cast<std::int32_t>(tokens.size()));
    return request;
  }
  RequestId insert(std::vector<std::int32_t> head, const std::vector<std::int32_t>& tail) {
    head.insert(head.end(), tail.begin(), tail.end());
    return insert(head);
  }
  Batch batch_of(const std::vector<RequestId>& requests) const {
    Batch batch;
    batch.page_size = tree.page_size();
    for (const RequestId request : requests) {
      const auto pages = tree.block_table(request);
      batch.requests.push_back({request, tree.seq_len(request), 1, {pages.begin(), pages.end()}});
    }
    return batch;
  }

  PagePool pool{64, 4};
  PrefixTree tree{pool};
};

TEST_F(FromTree, CommonPagesAreNodes) {
  const auto system = numbered(8, 0);
  const RequestId a = insert(system, numbered(5, 100)), b = insert(system, numbered(3, 200)),
                  c = insert(numbered(6, 300));
  const Forest forest = Forest::from_tree(tree, std::vector{c, a, b});
  EXPECT_EQ(difference(forest, batch_of({c, a, b})), "");
  EXPECT_THAT(forest.nodes(),
              ElementsAre(Node{-1, 0, 6, 0, 1}, Node{-1, 0, 8, 1, 3}, Node{1, 8, 5, 1, 2}, Node{1, 8, 3, 2, 3}));
  EXPECT_THAT(forest.request_ids(), ElementsAre(c, a, b));
}

TEST_F(FromTree, IdenticalPromptsAndForksShareThePartlyFilledPage) {
  const RequestId a = insert(numbered(6, 0));
  const RequestId b = tree.fork(a);
  const Forest before = Forest::from_tree(tree, std::vector{a, b});
  EXPECT_THAT(before.nodes(), ElementsAre(Node{-1, 0, 6, 0, 2}));

  // One takes the next slot and the other still ends before it; then it, too, grows and gets a page of its own.
  tree.append(a, std::vector<std::int32_t>{50});
  EXPECT_THAT(Forest::from_tree(tree, std::vector{a, b}).nodes(),
              ElementsAre(Node{-1, 0, 6, 0, 2}, Node{0, 6, 1, 1, 2}));
  tree.append(b, std::vector<std::int32_t>{51});
  EXPECT_THAT(Forest::from_tree(tree, std::vector{a, b}).nodes(),
              ElementsAre(Node{-1, 0, 4, 0, 2}, Node{0, 4, 3, 0, 1}, Node{0, 4, 3, 1, 2}));
}

TEST_F(FromTree, AdvancedWithTheTree) {
  const auto system = numbered(7, 0);
  const RequestId a = insert(system, {90}), b = insert(system, {91}), c = insert(system);
  std::vector<RequestId> requests = {a, b, c};
  Forest forest = Forest::from_tree(tree, requests);
  for (int step = 0; step < 20; ++step) {
    Deltas deltas;
    for (const RequestId request : requests) {
      const std::int32_t old_entries = static_cast<std::int32_t>(tree.block_table(request).size());
      const Appended appended = tree.append(request, std::vector<std::int32_t>{1000 + step % 3});
      deltas.grow.push_back({request, 1, {appended.new_pages.begin(), appended.new_pages.end()}});
      if (appended.copy) {
        deltas.replace.push_back({request, old_entries - 1, {appended.copy->dst}});
      }
    }
    forest.advance(deltas);
    // Committing what others have committed meanwhile gives their pages.
    deltas.clear();
    for (const RequestId request : requests) {
      const Committed committed = tree.commit(request, tree.seq_len(request));
      if (!committed.pages.empty()) {
        deltas.replace.push_back({request, committed.first_page, {committed.pages.begin(), committed.pages.end()}});
      }
    }
    forest.advance(deltas);
    ASSERT_TRUE(forest == Forest::from_tree(tree, requests)) << difference(forest, batch_of(requests));
    ASSERT_EQ(difference(forest, batch_of(requests)), "");
  }
}

TEST_F(FromTree, ARequestWithoutTokensAndNoRequests) {
  const RequestId a = tree.insert({}).request;
  EXPECT_EQ(difference(Forest::from_tree(tree, std::vector{a}), batch_of({a})), "");
  EXPECT_EQ(Forest::from_tree(tree, {}).num_requests(), 0);
}

TEST_F(FromTree, Errors) {
  const RequestId a = insert(numbered(3, 0));
  expect_error([&] { Forest::from_tree(tree, std::vector<RequestId>{a, 777}); },
               "invalid_argument: requests[1]: expected the id of a request in the tree, got 777");
  expect_error([&] { Forest::from_tree(tree, std::vector{a, a}); },
               "invalid_argument: requests: expected every request once, got " + std::to_string(a) + " twice");
  expect_error([&] { Forest::from_tree(tree, std::vector{a}, std::vector<std::int32_t>{4}); },
               "invalid_argument: qo_lens[0]: expected at most seq_len 3, got 4");
  expect_error([&] { Forest::from_tree(tree, std::vector{a}, std::vector<std::int32_t>{1, 1}); },
               "invalid_argument: qo_lens: expected 1 entries or none, got 2");
  // The pool's pages are the only legal ones in later deltas.
  Forest forest = Forest::from_tree(tree, std::vector{a});
  Deltas deltas;
  deltas.replace.push_back({a, 0, {64}});
  expect_error([&] { forest.advance(deltas); },
               "invalid_argument: deltas.replace[0].pages[0]: expected a page in [0, 64), got 64");
}

}  // namespace
}  // namespace trunkline::test
