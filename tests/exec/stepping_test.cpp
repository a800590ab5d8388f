// Decode steps: the forest advances, the workspace follows by the changes alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "exec/server.hpp"
#include "exec/table_copy.hpp"
#include "trunkline/trunkline.hpp"

namespace trunkline::test {
namespace {

constexpr int page_size = Server::page_size;

void expect_equal_copy(const exec::TableCopy& copy, const Server& server) {
  const auto rows = server.forest().table_rows();
  std::int32_t largest = 0;
  for (std::size_t r = 0; r < server.requests().size(); ++r) {
    const auto& pages = server.requests()[r].pages;
    const std::int64_t row = copy.rows_are_requests() ? static_cast<std::int64_t>(r) : rows[r];
    const std::vector<std::int32_t> copied(copy.entries() + row * copy.stride(),
                                           copy.entries() + row * copy.stride() + pages.size());
    ASSERT_EQ(copied, pages) << "request " << r;
    largest = std::max(largest, *std::ranges::max_element(pages));
  }
  ASSERT_EQ(copy.largest_page(), largest);
}

TEST(TableCopy, FollowsChangesStepByStep) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    Server server(seed);
    std::vector<std::int32_t> entries(16 * 200, -7);
    exec::TableCopy copy(entries.data(), 16, 200);
    for (int step = 0; step < 50; ++step) {
      copy.refresh(server.forest());
      ASSERT_NO_FATAL_FAILURE(expect_equal_copy(copy, server)) << "seed " << seed << ", step " << step;
      server.step();
    }
  }
}

TEST(TableCopy, AMissedStepIsMadeUpFor) {
  Server server(3);
  std::vector<std::int32_t> entries(16 * 200, -7);
  exec::TableCopy copy(entries.data(), 16, 200);
  for (int step = 0; step < 30; ++step) {
    copy.refresh(server.forest());
    ASSERT_NO_FATAL_FAILURE(expect_equal_copy(copy, server));
    for (int skipped = 0; skipped <= step % 3; ++skipped) server.step();
  }
}

TEST(TableCopy, TheNextVersionCostsItsChangesAlone) {
  Server server(5);
  std::vector<std::int32_t> entries(16 * 200, -7);
  exec::TableCopy copy(entries.data(), 16, 200);
  copy.refresh(server.forest());
  const auto row = server.forest().table_rows()[0];
  const std::int32_t mark = entries[row * 200];
  entries[row * 200] = mark + 1;  // what a whole refresh would write again
  copy.refresh(server.forest());
  EXPECT_EQ(entries[row * 200], mark + 1) << "the same version copied something";
  Forest forest = server.forest();
  Deltas deltas;
  deltas.grow.push_back({server.requests()[1].id, page_size, {777}});
  Forest next = forest;
  next.advance(deltas);
  if (next.uid() == forest.uid() && next.version() == forest.version() + 1 && forest.uid() == server.forest().uid()) {
    copy.refresh(next);
    EXPECT_EQ(entries[row * 200], mark + 1) << "the next version copied more than its changes";
  } else {  // a copied forest is another one, so everything is copied
    copy.refresh(next);
    EXPECT_EQ(entries[row * 200], mark);
  }
  EXPECT_EQ(copy.largest_page(), 777);
}

TEST(TableCopy, TwoForestsInTurn) {
  Server a(1), b(2);
  std::vector<std::int32_t> entries(16 * 200, -7);
  exec::TableCopy copy(entries.data(), 16, 200);
  for (int step = 0; step < 6; ++step) {
    copy.refresh(a.forest());
    ASSERT_NO_FATAL_FAILURE(expect_equal_copy(copy, a));
    copy.refresh(b.forest());
    ASSERT_NO_FATAL_FAILURE(expect_equal_copy(copy, b));
    a.step();
    b.step();
  }
}

// Attention over one step's batch, on KV that is a function of (page, slot).
class Layer {
 public:
  static constexpr int heads = 2, head_dim = 16, max_pages = 3000;

  Layer() {
    std::mt19937 random(17);
    std::normal_distribution<float> normal;
    kv_.resize(std::size_t{2} * max_pages * page_size * heads * head_dim);
    std::ranges::generate(kv_, [&] { return normal(random); });
    q_.resize(std::size_t{32} * heads * head_dim);
    std::ranges::generate(q_, [&] { return normal(random); });
  }
  static AttentionConfig config() {
    AttentionConfig config;
    config.num_qo_heads = config.num_kv_heads = heads;
    config.head_dim = head_dim;
    config.page_size = page_size;
    config.q_dtype = config.kv_dtype = DType::float32;
    return config;
  }
  std::vector<float> run(const Attention& attention, Workspace& workspace, int num_tokens) {
    std::vector<float> out(static_cast<std::size_t>(num_tokens) * heads * head_dim, NAN);
    const std::array<std::int64_t, 4> shape{num_tokens, heads, head_dim};
    attention.run(workspace, contiguous(q_.data(), DType::float32, shape, 3),
                  KvView::interleaved(kv_.data(), DType::float32, KvLayout::nhd, max_pages, page_size, heads, head_dim),
                  contiguous(out.data(), DType::float32, shape, 3));
    return out;
  }

 private:
  std::vector<float> kv_, q_;
};

TEST(Stepping, FiftyStepsEqualFreshPlansToTheBit) {
  Layer layer;
  for (unsigned seed = 0; seed < 3; ++seed) {
    Server server(seed);
    const Attention attention(Layer::config(), {16, 32, 200}, {}, {.num_threads = 2, .simd_target = {}, .device = {}});
    Workspace stepping(attention);
    for (int step = 0; step < 50; ++step) {
      attention.plan(server.forest(), stepping);
      stepping.plan().check(server.forest());
      Workspace anew(attention);
      attention.plan(server.fresh(), anew);
      const int tokens = static_cast<int>(server.requests().size());
      ASSERT_EQ(layer.run(attention, stepping, tokens), layer.run(attention, anew, tokens))
          << "seed " << seed << ", step " << step;
      server.step();
    }
  }
}

// A forest that once held more requests than the capacity has rows beyond it.
TEST(Stepping, AForestThatWasLargerThanTheCapacity) {
  Layer layer;
  Server server(4);
  while (server.requests().size() < 9) server.step();
  Deltas deltas;
  Forest forest = server.fresh();
  std::vector<Server::Request> kept(server.requests().end() - 4, server.requests().end());
  for (std::size_t r = 0; r + 4 < server.requests().size(); ++r) deltas.leave.push_back(server.requests()[r].id);
  forest.advance(deltas);
  const Attention attention(Layer::config(), {4, 8, 200});
  Workspace workspace(attention), anew(attention);
  for (int step = 0; step < 4; ++step) {
    attention.plan(forest, workspace);
    std::vector<std::int32_t> indptr{0}, indices, seq_lens;
    for (const Server::Request& request : kept) {
      indices.insert(indices.end(), request.pages.begin(), request.pages.end());
      indptr.push_back(static_cast<std::int32_t>(indices.size()));
      seq_lens.push_back(request.seq_len);
    }
    attention.plan(Forest::from_block_tables(BlockTables::csr(indptr, indices), seq_lens, page_size), anew);
    ASSERT_EQ(layer.run(attention, workspace, 4), layer.run(attention, anew, 4)) << "step " << step;
    deltas.clear();
    for (Server::Request& request : kept) {
      deltas.grow.push_back(
          {request.id, page_size, {2000 + step * 4 + static_cast<std::int32_t>(&request - kept.data())}});
      request.seq_len += page_size;
      request.pages.push_back(deltas.grow.back().pages[0]);
    }
    forest.advance(deltas);
  }
}

}  // namespace
}  // namespace trunkline::test
