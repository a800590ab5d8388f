// The tree of ChunkAttention's own tests (chunks of two tokens). There, chunks are shared when full and never at a
// leaf; here sharing is to the token, so results that are ours alone are named so.
#include "tree/fake_engine.hpp"

namespace trunkline {
namespace {

class ChunkAttentionTree : public ::testing::Test {
 protected:
  struct Counts {
    std::int64_t nodes, pages;
    friend bool operator==(const Counts&, const Counts&) = default;
    friend void PrintTo(const Counts& counts, std::ostream* os) {
      *os << "{nodes " << counts.nodes << ", pages " << counts.pages << "}";
    }
  };
  Counts counts() const { return {engine.tree.stats().num_nodes, engine.pool.num_used()}; }
  void TearDown() override { engine.verify(); }

  FakeEngine engine{32, 2};
};

TEST_F(ChunkAttentionTree, InsertingSixSequences) {
  const RequestId a = engine.serve({1, 2, 3, 4, 5});
  EXPECT_EQ(counts(), (Counts{1, 3}));  // [1 2][3 4][5 _]

  const RequestId b = engine.serve({1, 2, 3, 4, 6});
  EXPECT_EQ(counts(), (Counts{3, 4}));  // 1 2 3 4 -> {5, 6}: one page more
  EXPECT_EQ(first(engine.table(b), 2), first(engine.table(a), 2));

  const RequestId c = engine.serve({1, 2, 3, 4});
  EXPECT_EQ(counts(), (Counts{3, 4}));  // ours: the last chunk is shared too, no page of its own
  EXPECT_EQ(engine.table(c), first(engine.table(a), 2));

  const RequestId d = engine.serve({1, 7});
  EXPECT_EQ(counts(), (Counts{5, 5}));  // ours: 1 is shared in the tree; 7 needs a page, with a copy of 1
  EXPECT_EQ(engine.last_copy, (PageCopy{engine.table(a)[0], engine.table(d)[0], 1}));

  const RequestId e = engine.serve({1, 2});
  EXPECT_EQ(counts(), (Counts{6, 5}));  // 1 -> {2 -> 3 4 -> {5, 6}, 7}
  EXPECT_EQ(engine.table(e), first(engine.table(a), 1));

  const RequestId f = engine.serve({1, 2, 3, 4, 5});
  EXPECT_EQ(counts(), (Counts{6, 5}));  // ours: the same sequence again takes nothing
  EXPECT_EQ(engine.table(f), engine.table(a));
  EXPECT_EQ(engine.tree.requests(), (std::vector<RequestId>{a, b, c, d, e, f}));
}

TEST_F(ChunkAttentionTree, AppendingToTwoSequences) {
  const RequestId a = engine.serve({1, 2, 3, 4, 5});
  const RequestId b = engine.serve({1, 2, 3, 4, 6, 7});
  EXPECT_EQ(counts(), (Counts{3, 4}));

  const Tokens a_before = engine.table(a);
  const Tokens b_before = engine.table(b);
  engine.decode(a, {8});  // fills the leaf [5 _]
  EXPECT_EQ(engine.table(a), a_before);
  engine.decode(b, {9});  // [6 7] is full: a page more
  EXPECT_EQ(first(engine.table(b), 3), b_before);
  EXPECT_EQ(engine.table(b).size(), 4u);
  EXPECT_EQ(counts(), (Counts{3, 5}));  // ours: [6 7] -> [9] is one node, a run of two pages
  EXPECT_EQ(engine.tree.match_length(Tokens{1, 2, 3, 4, 5, 8}), 6);
  EXPECT_EQ(engine.tree.match_length(Tokens{1, 2, 3, 4, 6, 7, 9}), 7);
}

TEST_F(ChunkAttentionTree, Removing) {
  const RequestId a = engine.serve({1, 2, 3, 4, 5});
  const RequestId b = engine.serve({1, 2, 3, 4, 6});
  const RequestId c = engine.serve({1, 7});
  EXPECT_EQ(counts(), (Counts{5, 5}));

  engine.remove(b);
  EXPECT_EQ(counts(), (Counts{5, 5}));  // ours: the leaf stays cached until its page is needed
  EXPECT_EQ(engine.tree.evict(32), 1);
  EXPECT_EQ(counts(), (Counts{4, 4}));

  engine.remove(a);
  EXPECT_EQ(engine.tree.evict(32), 2);  // [5 _] and 2 [3 4]; 1 is on c's path, and keeps its page
  EXPECT_EQ(engine.tree.match_length(Tokens{1, 2, 3, 4}), 1);
  EXPECT_EQ(engine.tree.match_length(Tokens{1, 7}), 2);

  engine.remove(c);
  EXPECT_EQ(engine.tree.evict(32), 2);
  EXPECT_EQ(counts(), (Counts{0, 0}));
}

}  // namespace
}  // namespace trunkline
