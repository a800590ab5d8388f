// Random batches: the definition of a forest, property by property, without the naive builder; and random sequences of
// deltas.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "forest/batch.hpp"
#include "forest/decoder.hpp"

namespace trunkline::test {
namespace {

auto bytes(int size) { return rc::gen::resize(size, rc::gen::arbitrary<std::vector<std::uint8_t>>()); }

/// The requests that hold the token at this position of request r: equal pages up to it, and as long.
std::set<std::int32_t> sharing(const Batch& batch, std::size_t r, std::int32_t position) {
  const auto& pages = batch.requests[r].pages;
  const std::ptrdiff_t entries = position / batch.page_size + 1;
  std::set<std::int32_t> result;
  for (std::size_t i = 0; i < batch.requests.size(); ++i) {
    const Request& other = batch.requests[i];
    if (other.seq_len > position && std::equal(pages.begin(), pages.begin() + entries, other.pages.begin())) {
      result.insert(static_cast<std::int32_t>(i));
    }
  }
  return result;
}

std::set<std::int32_t> members(const Forest& forest, const Node& node) {
  const auto order = forest.request_order();
  return {order.begin() + node.request_begin, order.begin() + node.request_end};
}

void holds_the_definition(const Forest& forest, const Batch& batch) {
  const auto nodes = forest.nodes();
  std::vector<std::vector<int>> covered(batch.requests.size());
  for (std::size_t r = 0; r < batch.requests.size(); ++r) {
    covered[r].assign(batch.requests[r].seq_len, 0);
  }
  std::set<std::int32_t> ordered(forest.request_order().begin(), forest.request_order().end());
  RC_ASSERT(ordered.size() == batch.requests.size());

  std::vector<std::int32_t> last_sibling_first(nodes.size() + 1,
                                               -1);  // by parent + 1: smallest index of its last child
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const Node& node = nodes[i];
    RC_ASSERT(node.num_tokens > 0);
    RC_ASSERT(node.parent < static_cast<std::int32_t>(i));
    const std::set<std::int32_t> held = members(forest, node);
    RC_ASSERT(!held.empty());
    if (node.parent >= 0) {
      const Node& parent = nodes[node.parent];
      RC_ASSERT(parent.first_token + parent.num_tokens == node.first_token);
      RC_ASSERT(parent.request_begin <= node.request_begin && node.request_end <= parent.request_end);
      RC_ASSERT(held.size() < members(forest, parent).size());  // else the two were one run
    } else {
      RC_ASSERT(node.first_token == 0);
    }
    for (const std::int32_t r : held) {
      for (std::int32_t t = node.first_token; t < node.first_token + node.num_tokens; ++t) {
        RC_ASSERT(t < batch.requests[r].seq_len);
        ++covered[r][t];
        RC_ASSERT(sharing(batch, r, t) == held);
      }
    }
    // Canonical: siblings by the smallest caller's index.
    std::int32_t& last = last_sibling_first[node.parent + 1];
    RC_ASSERT(last < *held.begin());
    last = *held.begin();
  }
  for (const auto& positions : covered) {
    RC_ASSERT(std::all_of(positions.begin(), positions.end(), [](int times) { return times == 1; }));
  }
}

TEST(ForestProperties, EveryTokenIsInOneNodeWithExactlyThoseWhoShareIt) {
  EXPECT_TRUE(rc::check([] {
    const auto input = *bytes(400);
    Decoder decoder(input);
    const Batch batch = decoder.batch();
    holds_the_definition(batch.dense(), batch);
  }));
}

TEST(ForestProperties, TheNaiveBuilderAgrees) {
  EXPECT_TRUE(rc::check([] {
    const auto input = *bytes(400);
    Decoder decoder(input);
    const Batch batch = decoder.batch();
    RC_ASSERT(difference(batch.dense(), batch) == "");
    RC_ASSERT(batch.csr(3) == batch.dense());
  }));
}

TEST(ForestProperties, AnAdvancedForestEqualsTheOneBuiltAnew) {
  EXPECT_TRUE(rc::check([] {
    const auto input = *bytes(1500);
    Decoder decoder(input);
    Batch batch = decoder.batch();
    Forest forest = batch.dense();
    Mirror mirror;
    mirror.refresh(forest);
    for (int step = 0; step < 12; ++step) {
      const Deltas deltas = decoder.deltas(batch);
      forest.advance(deltas);
      batch.apply(deltas);
      mirror.refresh(forest);
      RC_ASSERT(difference(forest, batch) == "");
      RC_ASSERT(forest == batch.dense());
      RC_ASSERT(mirror.difference(forest) == "");
    }
  }));
}

}  // namespace
}  // namespace trunkline::test
