// The small structures inside the tree, against the standard library's.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <map>
#include <utility>
#include <vector>

#include "tree/child_index.hpp"
#include "tree/fake_engine.hpp"
#include "tree/run.hpp"

namespace trunkline {
namespace {

using tree::ChildIndex;
using TokenRun = tree::Run;  // gtest's test classes have a Run of their own

TEST(ChildIndex, AgreesWithAMapUnderAnySequenceOfSetsAndErasures) {
  EXPECT_TRUE(rc::check([] {
    ChildIndex index;
    std::map<std::pair<int, int>, int> model;
    const auto key = rc::gen::pair(rc::gen::inRange(0, 4), rc::gen::inRange(0, 12));
    const auto steps = *rc::gen::scale(4.0, rc::gen::container<std::vector<std::pair<std::pair<int, int>, int>>>(
                                                rc::gen::pair(key, rc::gen::inRange(-20, 40))));
    for (const auto& [edge, node] : steps) {
      if (node < 0) {
        index.erase(edge.first, edge.second);
        model.erase(edge);
      } else {
        index.set(edge.first, edge.second, node);
        model[edge] = node;
      }
      RC_ASSERT(index.size() == model.size());
      for (int parent = 0; parent < 4; ++parent) {
        for (int token = 0; token < 12; ++token) {
          const auto found = model.find({parent, token});
          RC_ASSERT(index.find(parent, token) == (found == model.end() ? ChildIndex::none : found->second));
        }
      }
    }
  }));
}

TEST(ChildIndex, GivesMemoryBack) {
  ChildIndex index;
  const std::int64_t empty = index.memory_bytes();
  for (int token = 0; token < 10'000; ++token) {
    index.set(0, token, token);
  }
  for (int token = 0; token < 10'000; ++token) {
    index.erase(0, token);
  }
  EXPECT_LE(index.memory_bytes(), 2 * empty);
}

void expect_bounded(const TokenRun& run) {
  RC_ASSERT(run.memory_bytes() <= 4 * (2 * std::int64_t{run.size()} + TokenRun::slack));
}

TEST(Run, AgreesWithAVectorAndStaysWithinItsMemoryBound) {
  EXPECT_TRUE(rc::check([] {
    TokenRun run;
    std::vector<std::int32_t> model;
    const auto steps = *rc::gen::container<std::vector<std::pair<int, int>>>(
        rc::gen::pair(rc::gen::inRange(0, 6), rc::gen::inRange(0, 60)));
    std::int32_t next = 0;
    for (const auto& [kind, amount] : steps) {
      const std::int32_t count = kind <= 1 ? amount : amount % (run.size() + 1);
      const auto cut = model.begin() + (kind <= 1 ? 0 : count);
      if (kind <= 1) {
        std::vector<std::int32_t> more;
        for (std::int32_t i = 0; i < count; ++i) {
          more.push_back(next++);
        }
        run.append(more);
        model.insert(model.end(), more.begin(), more.end());
      } else if (kind == 2) {
        run.drop_front(count);
        model.erase(model.begin(), cut);
      } else if (kind == 3) {
        run.drop_back(count);
        model.resize(model.size() - static_cast<std::size_t>(count));
      } else {
        TokenRun front = run.split_front(count);
        const std::vector<std::int32_t> front_model(model.begin(), cut);
        model.erase(model.begin(), cut);
        RC_ASSERT(std::vector<std::int32_t>(front.view().begin(), front.view().end()) == front_model);
        expect_bounded(front);
        if (kind == 4) {
          run = std::move(front);
          model = front_model;
        }
      }
      RC_ASSERT(std::vector<std::int32_t>(run.view().begin(), run.view().end()) == model);
      expect_bounded(run);
    }
  }));
}

TEST(PrefixTree, MemoryStaysWithinItsBound) {
  FakeEngine engine(512, 4);
  const std::int64_t at_rest = engine.tree.memory_bytes();
  std::int64_t peak_nodes = 0;
  for (std::int32_t i = 0; i < 300; ++i) {
    // A trunk of 1000 tokens that everybody leaves somewhere, and the cache is forever evicted.
    const RequestId request = engine.serve(range(0, 1 + i * 37 % 1000) + range(2000 * i, 2000 * i + 50));
    peak_nodes = std::max(peak_nodes, engine.tree.stats().num_nodes);
    const PrefixTreeStats stats = engine.tree.stats();
    const auto tokens = static_cast<std::int64_t>(engine.tree.seq_len(request)) + stats.filled_slots;
    EXPECT_LE(engine.tree.memory_bytes(),
              at_rest + 8 * tokens + 8 * (stats.pages_in_use + stats.pages_cached + stats.num_nodes) +
                  8 * static_cast<std::int64_t>(engine.table(request).size()) + 400 * peak_nodes + 300);
    engine.remove(request);
  }
  EXPECT_GT(engine.tree.stats().evicted_pages, 1000);
  engine.tree.clear();
  EXPECT_LE(engine.tree.memory_bytes(), at_rest + 400 * peak_nodes);
}

}  // namespace
}  // namespace trunkline
