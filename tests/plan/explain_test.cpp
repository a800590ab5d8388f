#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "plan/support.hpp"
#include "trunkline/error.hpp"

namespace trunkline {
namespace {

using test::config_of;
using test::prefix_forest;
using testing::HasSubstr;

Plan h200_plan(const Forest& forest, Strategy strategy = Strategy::automatic) {
  return Planner(DeviceSpec::h200(), config_of(32, 8, 16, strategy)).plan(forest);
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

TEST(Explain, HasEachNumber) {
  const Forest forest = prefix_forest(32, 4096, 256, 16);
  const Plan plan = h200_plan(forest);
  const std::string text = plan.explain(forest);
  auto n = [](auto value) { return std::to_string(value); };
  auto us = [](double seconds) {
    char buffer[64];
    std::snprintf(buffer, sizeof buffer, "%.2f", seconds * 1e6);
    return std::string(buffer);
  };
  EXPECT_THAT(text, HasSubstr("strategy auto, 132 workers, 8 KV heads, group size 4"));
  EXPECT_THAT(text, HasSubstr("32 requests, 32 query tokens, 33 nodes, 139264 tokens, 12288 distinct, share 11.33"));
  EXPECT_THAT(text, HasSubstr("plan: " + n(plan.items.size()) + " items (" + n(plan.phases[0].wide_end) + " wide, " +
                              n(plan.items.size() - plan.phases[0].wide_end) + " narrow) in 1 phases, " +
                              n(plan.merges.size()) + " merges of " + n(plan.merge_sources.size()) + " sources, " +
                              n(plan.num_partial_rows) + " partial rows"));
  EXPECT_THAT(text, HasSubstr("modelled " + us(plan.model.seconds) + " us = fixed " + us(plan.model.fixed_seconds) +
                              " + items " + us(plan.model.item_seconds) + " + merges " + us(plan.model.merge_seconds)));
  EXPECT_THAT(text, HasSubstr("reads " + us(plan.model.read_seconds) + " us, wide lane " + us(plan.model.wide_seconds) +
                              " us, narrow lane " + us(plan.model.narrow_seconds) + " us"));
  EXPECT_THAT(text, HasSubstr("reads 50.332 MB of KV, 1.00 times what is distinct"));
  EXPECT_THAT(text, HasSubstr("bound by "));

  const std::vector<std::string> lines = lines_of(text);
  ASSERT_EQ(lines.size(), 6u + 1 + 33);
  EXPECT_THAT(lines[6], HasSubstr("node  depth  first  tokens  requests  rows"));
  const Plan::NodeChoice& root = plan.choices[0];
  for (const std::string& word : {std::string("4096"), std::string("32"), std::string("128"), std::string("shared"),
                                  n(root.row_tiles), n(root.splits), us(root.seconds)}) {
    EXPECT_THAT(lines[7], HasSubstr(" " + word));
  }
  EXPECT_THAT(lines[8], HasSubstr(" own "));
}

TEST(Explain, ModelledPartsAddUp) {
  for (const Strategy strategy : {Strategy::automatic, Strategy::unshared, Strategy::two_phase, Strategy::hydragen}) {
    const Plan::Model m = h200_plan(prefix_forest(32, 4096, 256, 16), strategy).model;
    EXPECT_DOUBLE_EQ(m.seconds, m.fixed_seconds + m.item_seconds + m.merge_seconds);
    EXPECT_GE(m.item_seconds, m.read_seconds);
    EXPECT_GE(m.item_seconds, std::max(m.wide_seconds, m.narrow_seconds) * (1 - 1e-12));
  }
}

TEST(Explain, RowTilesOfTheSameTokensReadMemoryOnce) {
  // 256 rows of a KV head are two row tiles: both read the shared tokens, the second one from the cache.
  constexpr double shared = 16384, own = 64 * 16, token_bytes = 2 * 128 * 2 * 8;
  DeviceSpec device = DeviceSpec::h200();
  device.paired_flops = 0;
  const Forest forest = prefix_forest(64, 16384, 16, 16);
  const Plan::Model m = Planner(device, config_of(32, 8, 16, Strategy::two_phase)).plan(forest).model;
  EXPECT_EQ(static_cast<double>(m.kv_bytes), (2 * shared + own) * token_bytes);
  EXPECT_DOUBLE_EQ(m.read_seconds, (shared + own) * token_bytes / DeviceSpec::h200().read_bandwidth);
  const double twice = 2 * shared * token_bytes / DeviceSpec::h200().read_bandwidth;
  EXPECT_LT(m.wide_seconds, 1.05 * twice) << "products, and partials; memory twice would make it 1.17";
}

// The same rows are one tile of two workers, which read the shared tokens once.
TEST(Explain, PairsOfWorkersReadOnce) {
  constexpr double shared = 16384, own = 64 * 16, token_bytes = 2 * 128 * 2 * 8;
  const Forest forest = prefix_forest(64, 16384, 16, 16);
  const Plan plan = h200_plan(forest, Strategy::two_phase);
  EXPECT_EQ(static_cast<double>(plan.model.kv_bytes), (shared + own) * token_bytes);
  EXPECT_DOUBLE_EQ(plan.model.operations, 4.0 * 128 * (256 * shared + 64 * 4 * 16) * 8);
  EXPECT_THAT(plan.explain(forest), HasSubstr("wide for two workers each"));
  EXPECT_THAT(plan.explain_json(forest), HasSubstr("\"paired\": true"));
  EXPECT_THAT(h200_plan(prefix_forest(32, 4096, 256, 16)).explain_json(prefix_forest(32, 4096, 256, 16)),
              HasSubstr("\"paired\": false"));
}

TEST(Explain, SaysWhatWasGivenBackAndShed) {
  const Forest small = prefix_forest(256, 16, 512, 16);
  EXPECT_THAT(h200_plan(small).explain(small), HasSubstr("given back"));
  const Forest forest = prefix_forest(8, 4096, 256, 16);
  const Plan shed = Planner(DeviceSpec::h200(), config_of(32, 8, 16)).plan(forest, PlanLimits{8, 8, 8, 0, 0, 0});
  EXPECT_THAT(shed.explain(forest), HasSubstr("shed"));
}

TEST(Explain, ManyNodesAreCutToThoseThatCostMost) {
  const Forest forest = prefix_forest(500, 4096, 64, 16);
  const std::string text = h200_plan(forest).explain(forest);
  EXPECT_EQ(lines_of(text).size(), 6u + 1 + 40 + 1);
  EXPECT_THAT(text, HasSubstr("and 461 more nodes, "));
  EXPECT_THAT(lines_of(text)[7], HasSubstr("shared")) << "the root costs most and is shown";
}

TEST(Explain, AnEmptyBatchIsExplainedToo) {
  const Forest forest;
  const Plan plan = h200_plan(forest);
  EXPECT_THAT(plan.explain(forest), HasSubstr("0 requests"));
  EXPECT_EQ(nlohmann::json::parse(plan.explain_json(forest))["nodes"].size(), 0u);
}

// An engine's forest has often moved on when a plan is looked at.
TEST(Explain, RefusesAForestThatIsNotThePlannedOne) {
  const Forest forest = prefix_forest(32, 4096, 256, 16);
  const Plan plan = h200_plan(forest);
  Forest changed = forest;
  Deltas left;
  left.leave = {0, 1, 2};
  changed.advance(left);
  for (const auto& explain : {&Plan::explain, &Plan::explain_json}) {
    try {
      (plan.*explain)(changed);
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(),
                   "invalid_argument: forest: expected the planned one, of 33 nodes and 32 query tokens, got one of 30 "
                   "nodes and 29 query tokens");
    }
  }
  EXPECT_THROW(plan.explain(Forest()), Error);
}

TEST(ExplainJson, ParsesAndHoldsTheSameFacts) {
  const Forest forest = prefix_forest(300, 4096, 64, 16);
  const Plan plan = h200_plan(forest);
  const nlohmann::json json = nlohmann::json::parse(plan.explain_json(forest));
  EXPECT_EQ(json["strategy"], "auto");
  EXPECT_EQ(json["shed"], false);
  EXPECT_EQ(json["items"], plan.items.size());
  EXPECT_EQ(json["merges"], plan.merges.size());
  EXPECT_EQ(json["partial_rows"], plan.num_partial_rows);
  EXPECT_EQ(json["forest"]["requests"], 300);
  EXPECT_EQ(json["forest"]["distinct_tokens"], forest.distinct_tokens());
  EXPECT_DOUBLE_EQ(json["model"]["us"], plan.model.seconds * 1e6);
  EXPECT_EQ(json["model"]["kv_bytes"], plan.model.kv_bytes);
  ASSERT_EQ(json["nodes"].size(), 301u) << "every node, however many";
  double seconds = 0;
  for (const auto& node : json["nodes"]) seconds += node["worker_us"].get<double>() * 1e-6;
  double expected = 0;
  for (const Plan::NodeChoice& choice : plan.choices) expected += choice.seconds;
  EXPECT_NEAR(seconds, expected, 1e-9 * expected);
  EXPECT_EQ(json["nodes"][0]["choice"], "shared");
  EXPECT_EQ(json["nodes"][0]["parent"], -1);
  EXPECT_EQ(json["nodes"][1]["depth"], 1);
}

}  // namespace
}  // namespace trunkline
