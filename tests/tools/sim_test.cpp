#include "sim/simulation.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "sim/compact_batch.hpp"
#include "sim/sampler.hpp"
#include "tools/trace_files.hpp"
#include "trace/generate.hpp"
#include "trace/read.hpp"
#include "trunkline/error.hpp"

namespace trunkline::sim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

trace::Trace read_text(const std::string& text) {
  const test::TemporaryFolder folder;
  return trace::read_trace(folder.write("t.jsonl", text));
}

trace::Trace generated(const trace::GenerateOptions& options) {
  std::ostringstream out;
  trace::generate(options, out);
  return read_text(out.str());
}

/// A prompt of whole blocks of four tokens.
std::string row(int timestamp_ms, const std::vector<int>& blocks, int output_length) {
  return fmt::format(
      "{{\"timestamp\":{},\"input_length\":{},\"output_length\":{},\"hash_ids\":[{}],\"block_size\":4}}\n",
      timestamp_ms, 4 * blocks.size(), output_length, fmt::join(blocks, ","));
}

/// 24 requests of 3 groups, 40 + 12 tokens each, that overlap in time.
trace::Trace small_workload() {
  trace::GenerateOptions options;
  options.num_groups = 3;
  options.prompts_per_group = 8;
  options.system_prompt_len = 40;
  options.question_len = 12;
  options.output_len = 20;
  options.range_ratio = 0.5;
  options.request_rate = 10;
  return generated(options);
}

Options verified(std::int32_t num_pages, int page_size = 4) {
  Options options;
  options.page_size = page_size;
  options.num_pages = num_pages;
  options.verify_every = 1;
  return options;
}

std::vector<Step> run(Simulation& simulation) {
  std::vector<Step> steps;
  while (simulation.step()) steps.push_back(simulation.current());
  return steps;
}

void expect_all_finished(const trace::Trace& trace, const Simulation& simulation) {
  const Totals totals = simulation.totals();
  EXPECT_EQ(totals.finished, static_cast<std::int64_t>(trace.requests.size()));
  EXPECT_EQ(totals.output_tokens, trace.num_output_tokens()) << "each output token is decoded once, preempted or not";
  EXPECT_TRUE(simulation.tree().requests().empty());
}

// ---- Time ----

TEST(Simulation, PrefillTakesTimeForTokensThatAreNotCached) {
  const auto trace = read_text(row(0, {1, 2, 3}, 1) + row(0, {1, 2, 9}, 1) + row(0, {1, 2, 9}, 1));
  Options options = verified(100);
  options.prefill_rate = 1;
  options.decode_step = 100;
  Simulation simulation(trace, options);
  ASSERT_TRUE(simulation.step());
  EXPECT_DOUBLE_EQ(simulation.current().time, 12 + 4 + 1 + 100) << "all, what differs, the last token's logits";
  EXPECT_EQ(simulation.current().batch, 3);
  EXPECT_EQ(simulation.totals().prompt_tokens, 36);
  EXPECT_EQ(simulation.totals().cached_tokens, 8 + 12);
  EXPECT_EQ(simulation.totals().prefilled_tokens, 12 + 4 + 1);
  EXPECT_FALSE(simulation.step());
  expect_all_finished(trace, simulation);
}

TEST(Simulation, RequestsRunFromTheirTimeStampsOn) {
  const auto trace = read_text(row(1000, {1}, 3) + row(4000, {2}, 1) + row(50'000, {3}, 2));
  Options options = verified(100);
  options.prefill_rate = 1e9;
  options.decode_step = 2;
  Simulation simulation(trace, options);
  std::vector<int> batches;
  std::vector<double> times;
  for (const Step& step : run(simulation)) {
    batches.push_back(step.batch);
    times.push_back(step.time);
  }
  EXPECT_THAT(batches, ElementsAre(1, 1, 2, 1, 1));
  EXPECT_THAT(times,
              ElementsAre(testing::DoubleNear(2, 1e-6), testing::DoubleNear(4, 1e-6), testing::DoubleNear(6, 1e-6),
                          testing::DoubleNear(51, 1e-6), testing::DoubleNear(53, 1e-6)))
      << "time begins with the first request, and nothing waits for an idle engine";
}

TEST(Simulation, TimeScaleZeroBringsAllAtOnce) {
  const auto trace = read_text(row(0, {1}, 2) + row(5000, {2}, 2) + row(90'000, {3}, 2));
  Options options = verified(100);
  options.time_scale = 0;
  Simulation simulation(trace, options);
  ASSERT_TRUE(simulation.step());
  EXPECT_EQ(simulation.current().batch, 3);
}

// ---- Bounds ----

TEST(Simulation, BatchAndConcurrencyAreBounded) {
  const auto trace = small_workload();
  Options options = verified(1000);
  options.max_batch = 5;
  options.time_scale = 0;
  Simulation crowded(trace, options);
  std::int32_t most = 0;
  for (const Step& step : run(crowded)) most = std::max(most, step.batch);
  EXPECT_EQ(most, 5);
  expect_all_finished(trace, crowded);

  options.max_batch = 64;
  options.concurrency = 7;
  Simulation closed(trace, options);
  most = 0;
  for (const Step& step : run(closed)) {
    EXPECT_EQ(step.waiting, 0) << "with room for all, who arrives runs";
    most = std::max(most, step.batch);
  }
  EXPECT_EQ(most, 7);
  expect_all_finished(trace, closed);
}

TEST(Simulation, MaxStepsEndsIt) {
  const auto trace = small_workload();
  Options options = verified(1000);
  options.max_steps = 3;
  Simulation simulation(trace, options);
  EXPECT_EQ(run(simulation).size(), 3u);
  EXPECT_FALSE(simulation.step());
  EXPECT_EQ(simulation.totals().steps, 3);
}

TEST(Simulation, FirstComeFirstServed) {
  const auto trace = small_workload();
  Options options = verified(60);
  Simulation simulation(trace, options);
  RequestId last = -1;
  std::set<RequestId> seen;
  while (simulation.step()) {
    for (const RequestId id : simulation.forest().request_ids()) {
      if (!seen.insert(id).second) continue;
      EXPECT_GT(id, std::exchange(last, id)) << "ids ascend in the order of admission";
    }
  }
}

TEST(Simulation, AFullPoolPreemptsTheNewest) {
  // Two requests grow from 1 page of 4 tokens to 4; with 6 pages there is none when the first needs its fourth.
  const auto trace = read_text(row(0, {1}, 12) + row(0, {2}, 12));
  Options options = verified(6);
  options.prefill_rate = 1;
  options.decode_step = 0;
  Simulation simulation(trace, options);
  std::vector<int> batches;
  std::vector<RequestId> first_of_step;
  for (int step = 0; simulation.step(); ++step) {
    batches.push_back(simulation.current().batch);
    first_of_step.push_back(simulation.forest().request_ids()[0]);
  }
  EXPECT_THAT(batches, ElementsAre(2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1));
  EXPECT_EQ(first_of_step[11], first_of_step[0]) << "the older request goes on";
  EXPECT_NE(first_of_step[12], first_of_step[0]);
  EXPECT_EQ(simulation.totals().preemptions, 1);
  EXPECT_EQ(simulation.totals().prompt_tokens, 8) << "starting again is no new prompt";
  EXPECT_EQ(simulation.totals().prefilled_tokens, 8 + 4) << "of the 12 tokens it had, 8 are still cached";
  expect_all_finished(trace, simulation);
}

TEST(Simulation, AllFinishInASmallPool) {
  const auto trace = small_workload();  // a request needs at most 19 pages of 4 tokens
  Options options = verified(40);
  options.time_scale = 0;
  Simulation simulation(trace, options);
  while (simulation.step()) {
    const Step& step = simulation.current();
    EXPECT_EQ(step.pages_used + step.pages_cached + step.pages_free, 40);
  }
  expect_all_finished(trace, simulation);
  EXPECT_GT(simulation.totals().preemptions, 0);
  EXPECT_GT(simulation.totals().evicted_pages, 0);
}

TEST(Simulation, APoolForOneRequestRunsThemOneByOne) {
  const auto trace = read_text(row(0, {1, 2}, 8) + row(0, {1, 2}, 8) + row(0, {1, 3}, 8));
  Simulation simulation(trace, verified(4));
  for (const Step& step : run(simulation)) EXPECT_LE(step.batch, 3);
  expect_all_finished(trace, simulation);
}

TEST(Simulation, ALargeRequestThatWaitedLeavesNoMark) {
  // The second request needs the whole pool and waits for the first; what comes after it runs together again.
  std::vector<int> large(20);
  std::iota(large.begin(), large.end(), 100);
  std::string text = row(0, {1}, 4) + row(0, large, 1);
  for (int i = 0; i < 6; ++i) text += row(0, {10 + i}, 4);
  const auto trace = read_text(text);
  Simulation simulation(trace, verified(21));
  std::vector<int> batches;
  for (const Step& step : run(simulation)) batches.push_back(step.batch);
  EXPECT_THAT(batches, ElementsAre(1, 1, 1, 1, 1, 6, 6, 6, 6));
  expect_all_finished(trace, simulation);
}

TEST(Simulation, ARequestLargerThanThePoolIsNamed) {
  const auto trace = read_text(row(0, {1}, 1) + row(0, {1, 2}, 9));
  try {
    Simulation simulation(trace, verified(4));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
    EXPECT_EQ(error.argument(), "num-pages");
    EXPECT_THAT(error.expected(), HasSubstr("at least the 5 pages of 4 tokens that request 1 (line 2 of t.jsonl)"));
    EXPECT_EQ(error.got(), "4");
  }
}

TEST(Simulation, BadOptionsAreNamed) {
  const auto trace = read_text(row(0, {1}, 1));
  const auto expect_refused = [&](auto set, const std::string& name, const std::string& got = "") {
    Options options;
    set(options);
    try {
      Simulation simulation(trace, options);
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
      EXPECT_EQ(error.argument(), name);
      EXPECT_THAT(error.got(), testing::StartsWith(got));
    }
  };
  expect_refused([](Options& options) { options.page_size = 0; }, "page-size");
  expect_refused([](Options& options) { options.page_size = 1025; }, "page-size");
  expect_refused([](Options& options) { options.num_pages = 0; }, "num-pages", "0");
  expect_refused([](Options& options) { options.max_batch = 0; }, "max-batch");
  expect_refused([](Options& options) { options.concurrency = -1; }, "concurrency");
  expect_refused([](Options& options) { options.time_scale = -1; }, "time-scale");
  expect_refused([](Options& options) { options.time_scale = std::numeric_limits<double>::quiet_NaN(); }, "time-scale");
  expect_refused([](Options& options) { options.prefill_rate = 0; }, "prefill-rate");
  expect_refused([](Options& options) { options.decode_step = -0.5; }, "decode-step", "-0.5");
  expect_refused([](Options& options) { options.max_steps = -1; }, "max-steps");
  expect_refused([](Options& options) { options.verify_every = -1; }, "verify");
}

// ---- Trees of thought ----

struct TestNode {
  int parent, tokens, start;
  int end() const { return start + tokens - 1; }
};

std::string tree_line(const std::vector<TestNode>& nodes) {
  std::vector<std::string> written;
  for (const TestNode& node : nodes) {
    written.push_back(fmt::format("{{\"id\":{},\"parent\":{},\"tokens\":{},\"start\":{},\"end\":{}}}", written.size(),
                                  node.parent, node.tokens, node.start, node.end()));
  }
  return fmt::format("{{\"nodes\":[{}]}}\n", fmt::join(written, ","));
}

/// Tokens of a node at the end of a step.
int tokens_at(const TestNode& node, int step) { return std::clamp(step - node.start + 1, 0, node.tokens); }

/// Of each decode step of one tree alone: batch, tokens counted per request, distinct tokens; told by the nodes' steps.
void expect_steps_of(const std::vector<TestNode>& nodes, const std::vector<Step>& steps) {
  int last = 0;
  for (const TestNode& node : nodes) last = std::max(last, node.end());
  ASSERT_EQ(static_cast<int>(steps.size()), last);
  for (int step = 1; step <= last; ++step) {
    std::int64_t batch = 0, total = 0, distinct = 0;
    std::vector<bool> counted(nodes.size());
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      if (nodes[i].parent < 0 || step < nodes[i].start || step > nodes[i].end()) continue;
      ++batch;
      for (int at = static_cast<int>(i); at >= 0; at = nodes[static_cast<std::size_t>(at)].parent) {
        const auto n = static_cast<std::size_t>(at);
        total += tokens_at(nodes[n], step);
        if (!counted[n]) distinct += tokens_at(nodes[n], step);
        counted[n] = true;
      }
    }
    const Step& got = steps[static_cast<std::size_t>(step - 1)];
    EXPECT_EQ(got.batch, batch) << "step " << step;
    EXPECT_EQ(got.total_tokens, total) << "step " << step;
    EXPECT_EQ(got.distinct_tokens, distinct) << "step " << step;
  }
}

TEST(SimulatedTree, BranchesDecodeInTheirSteps) {
  // With pages of one token, memory is shared to the token.
  const std::vector<TestNode> nodes = {{-1, 7, -6}, {0, 3, 1}, {0, 5, 1}, {1, 2, 4}, {1, 4, 4},
                                       {2, 0, 6},   {5, 3, 6}, {2, 2, 6}, {4, 1, 8}};
  const auto trace = read_text(tree_line(nodes));
  Simulation simulation(trace, verified(100, 1));
  expect_steps_of(nodes, run(simulation));
  expect_all_finished(trace, simulation);
  EXPECT_EQ(simulation.totals().forks, 7) << "every branch with a token";
}

TEST(SimulatedTree, PagesPartlyFilledAreCopiedWhenBranchesGrow) {
  const std::vector<TestNode> nodes = {{-1, 7, -6}, {0, 3, 1}, {0, 3, 1}, {0, 3, 1}};
  const auto trace = read_text(tree_line(nodes));
  Simulation simulation(trace, verified(100, 4));
  ASSERT_TRUE(simulation.step());
  EXPECT_EQ(simulation.current().total_tokens, 24);
  EXPECT_EQ(simulation.totals().page_copies, 2) << "of three branches from inside a page, the first keeps it";
  while (simulation.step()) continue;
  expect_all_finished(trace, simulation);
}

TEST(SimulatedTree, RandomTreesDecodeInTheirSteps) {
  EXPECT_TRUE(rc::check([] {
    std::vector<TestNode> nodes = {{-1, *rc::gen::inRange(1, 12), 0}};
    nodes[0].start = 1 - nodes[0].tokens;
    const int count = *rc::gen::inRange(0, 14);
    for (int i = 0; i < count; ++i) {
      const int parent = *rc::gen::inRange(0, static_cast<int>(nodes.size()));
      nodes.push_back({parent, *rc::gen::inRange(0, 9), nodes[static_cast<std::size_t>(parent)].end() + 1});
    }
    const auto trace = read_text(tree_line(nodes));
    Simulation simulation(trace, verified(500, 1));
    expect_steps_of(nodes, run(simulation));
    expect_all_finished(trace, simulation);
    RC_ASSERT(!testing::Test::HasFailure());
  }));
}

// ---- Anything ----

TEST(Simulation, RandomWorkloadsKeepEveryInvariant) {
  EXPECT_TRUE(rc::check([] {
    std::string text;
    const bool trees = *rc::gen::arbitrary<bool>();
    const int count = *rc::gen::inRange(1, 12);
    for (int i = 0; i < count; ++i) {
      if (trees) {
        std::vector<TestNode> nodes = {{-1, 1 + i % 5, -(i % 5)}};
        for (int branch = 0; branch < 4; ++branch) {
          const int parent = *rc::gen::inRange(0, static_cast<int>(nodes.size()));
          nodes.push_back({parent, *rc::gen::inRange(0, 6), nodes[static_cast<std::size_t>(parent)].end() + 1});
        }
        text += tree_line(nodes);
      } else {
        const auto blocks =
            *rc::gen::container<std::vector<int>>(*rc::gen::inRange<std::size_t>(1, 4), rc::gen::inRange(0, 3));
        text += row(*rc::gen::inRange(0, 300), blocks, *rc::gen::inRange(0, 12));
      }
    }
    const auto trace = read_text(text);
    Options options = verified(1, *rc::gen::inRange(1, 6));
    for (const auto& request : trace.requests) {  // from the smallest pool that is legal
      const std::int32_t pages =
          (request.prompt_length + request.output_length + options.page_size - 1) / options.page_size;
      options.num_pages = std::max(options.num_pages, pages);
    }
    options.num_pages += *rc::gen::inRange(0, 20);
    options.max_batch = *rc::gen::inRange(1, 9);
    options.concurrency = *rc::gen::inRange(0, 4);
    Simulation simulation(trace, options);
    for (const Step& step : run(simulation)) {
      RC_ASSERT(step.batch >= 1 && step.batch <= options.max_batch);
      RC_ASSERT(step.pages_used + step.pages_cached + step.pages_free == options.num_pages);
      RC_ASSERT(step.distinct_tokens <= step.total_tokens);
      RC_ASSERT(step.distinct_tokens <= step.pages_used * options.page_size);
    }
    RC_ASSERT(simulation.totals().finished == static_cast<std::int64_t>(trace.requests.size()));
    RC_ASSERT(simulation.totals().output_tokens == trace.num_output_tokens());
  }));
}

TEST(Simulation, IsDeterministic) {
  const auto trace = small_workload();
  Options options = verified(45);
  Simulation first(trace, options), second(trace, options);
  while (first.step()) {
    ASSERT_TRUE(second.step());
    ASSERT_EQ(first.current().time, second.current().time);
    ASSERT_TRUE(first.forest() == second.forest());
  }
  EXPECT_FALSE(second.step());
}

class SimulatedRealTrace : public testing::TestWithParam<const char*> {};

TEST_P(SimulatedRealTrace, LargeKeepsEveryInvariant) {
  TRUNKLINE_REAL_TRACE(path, GetParam());
  const trace::Trace trace = trace::read_trace(path, std::nullopt, 200);
  Options options;
  options.concurrency = 32;
  options.num_pages = 20'000;
  options.verify_every = 100;
  Simulation simulation(trace, options);
  run(simulation);
  expect_all_finished(trace, simulation);
  EXPECT_GT(simulation.totals().verified_steps, 3);
}

INSTANTIATE_TEST_SUITE_P(All, SimulatedRealTrace,
                         testing::Values("mooncake/conversation_trace.jsonl", "mooncake/synthetic_trace.jsonl",
                                         "mooncake_toolagent_slice/toolagent_slice.jsonl", "ragpulse",
                                         "deft_tot/docmergeToT.trees.jsonl"),
                         [](const auto& test) { return "Trace" + std::to_string(test.index); });

// ---- Samples ----

TEST(StepSampler, TakesTheMiddlesOfEqualParts) {
  const auto trace = read_text(row(0, {1}, 900));
  Simulation simulation(trace, verified(1000, 16));
  StepSampler sampler(3);
  while (simulation.step()) sampler.see(simulation);
  const auto samples = sampler.take();
  ASSERT_EQ(samples.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(static_cast<double>(samples[i].index), 150 + 300.0 * static_cast<double>(i), 300.0 / 16);
    EXPECT_EQ(samples[i].forest.total_tokens(), 5 + samples[i].index) << "the forest of that very step";
    EXPECT_EQ(samples[i].step.total_tokens, samples[i].forest.total_tokens());
  }
}

TEST(StepSampler, AShortRunGivesEachStepOnce) {
  for (const int length : {1, 2, 3, 5}) {
    const auto trace = read_text(row(0, {1}, length));
    Simulation simulation(trace, verified(10));
    StepSampler sampler(4), none(0);
    while (simulation.step()) sampler.see(simulation), none.see(simulation);
    std::int64_t last = -1;
    const auto samples = sampler.take();
    EXPECT_EQ(static_cast<int>(samples.size()), std::min(length, 4));
    for (const Sample& sample : samples) EXPECT_GT(sample.index, std::exchange(last, sample.index));
    EXPECT_TRUE(none.take().empty());
  }
}

// ---- Compact batches ----

TEST(CompactBatch, KeepsSharingAndOrderOfPages) {
  const std::vector<std::int32_t> indptr = {0, 3, 6, 8}, pages = {90, 7, 41, 90, 7, 12, 55, 7}, seq_lens = {11, 9, 8};
  BatchOptions options;
  const std::vector<RequestId> ids = {5, 3, 8};
  options.request_ids = ids;
  const Forest forest = Forest::from_block_tables(BlockTables::csr(indptr, pages), seq_lens, 4, options);
  const CompactBatch batch(forest, 100);
  EXPECT_THAT(batch.indices, ElementsAre(4, 0, 2, 4, 0, 1, 3, 0));
  EXPECT_THAT(batch.indptr, ElementsAre(0, 3, 6, 8));
  EXPECT_EQ(batch.num_pages, 5);
  EXPECT_EQ(batch.max_pages, 3);
  EXPECT_EQ(batch.num_left_out, 0);
  EXPECT_TRUE(std::ranges::equal(batch.forest.nodes(), forest.nodes()));
}

TEST(CompactBatch, LeavesOutTheNewestWhenPagesAreFew) {
  const std::vector<std::int32_t> indptr = {0, 2, 4, 6}, pages = {1, 2, 1, 3, 4, 5}, seq_lens = {8, 8, 8};
  const Forest forest = Forest::from_block_tables(BlockTables::csr(indptr, pages), seq_lens, 4);
  const CompactBatch some(forest, 4);
  EXPECT_EQ(some.num_requests(), 2);
  EXPECT_EQ(some.num_left_out, 1);
  EXPECT_THAT(some.indices, ElementsAre(0, 1, 0, 2));
  EXPECT_EQ(some.num_pages, 3);
  EXPECT_EQ(CompactBatch(forest, 1).num_requests(), 0);
}

}  // namespace
}  // namespace trunkline::sim
