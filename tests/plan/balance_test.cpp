// Whether workers finish together, counted from the schedule and the token ranges alone.
#include <gtest/gtest.h>

#include "plan/support.hpp"

namespace trunkline {
namespace {

using test::config_of;
using test::separate_forest;

/// KV tokens that each worker reads, over both lanes and bands.
std::vector<double> tokens_per_worker(const Plan& plan) {
  std::vector<double> tokens(static_cast<std::size_t>(plan.num_workers), 0);
  for (std::size_t phase = 0; phase < plan.phases.size(); ++phase) {
    for (int lane = 0; lane < 2; ++lane) {
      const std::int32_t lane_begin = lane == 0 ? plan.phases[phase].item_begin : plan.phases[phase].wide_end;
      for (int band = 0; band < 2; ++band) {
        const std::int32_t* begin = plan.schedule.data() + plan.schedule_offset(phase, lane, band);
        for (std::size_t w = 0; w < tokens.size(); ++w) {
          for (std::int32_t unit = begin[w]; unit < begin[w + 1]; ++unit) {
            const WorkItem& item = plan.items[lane_begin + unit / plan.num_kv_heads];
            const Segment& segment = plan.segments[item.segment_begin];
            tokens[w] += segment.token_end - segment.token_begin;
          }
        }
      }
    }
  }
  return tokens;
}

double busiest_over_mean(const Plan& plan) {
  const std::vector<double> tokens = tokens_per_worker(plan);
  const double mean = std::accumulate(tokens.begin(), tokens.end(), 0.0) / static_cast<double>(tokens.size());
  return *std::max_element(tokens.begin(), tokens.end()) / mean;
}

Plan h200_plan(const std::vector<std::int32_t>& seq_lens, int num_qo_heads, int num_kv_heads) {
  const Forest forest = separate_forest(seq_lens, 16);
  Plan plan = Planner(DeviceSpec::h200(), config_of(num_qo_heads, num_kv_heads, 16)).plan(forest);
  plan.check(forest);
  return plan;
}

TEST(Balance, LargeUnsharedBatchesKeepEveryWorkerBusy) {
  for (const auto& [batch, length, qo, kv] : std::vector<std::array<int, 4>>{{256, 8192, 32, 8},
                                                                             {200, 8192, 32, 8},
                                                                             {128, 4096, 32, 32},
                                                                             {100, 8192, 64, 8},
                                                                             {40, 16384, 32, 8},
                                                                             {32, 4160, 32, 32},
                                                                             {17, 32768, 32, 8},
                                                                             {300, 8192, 8, 1}}) {
    const Plan plan = h200_plan(std::vector<std::int32_t>(batch, length), qo, kv);
    EXPECT_LT(busiest_over_mean(plan), 1.05) << batch << " x " << length << ", heads " << qo << "/" << kv;
    // By the model, everything but the launch and the tail is reading.
    EXPECT_LT(plan.model.seconds - plan.model.fixed_seconds, 1.07 * plan.model.read_seconds)
        << batch << " x " << length;
  }
}

TEST(Balance, UnequalRequests) {
  std::vector<std::int32_t> seq_lens;
  std::uint32_t state = 1;
  for (int i = 0; i < 200; ++i) {
    state = state * 1664525 + 1013904223;
    seq_lens.push_back(1 + static_cast<std::int32_t>((state >> 16) % 16384));
  }
  EXPECT_LT(busiest_over_mean(h200_plan(seq_lens, 32, 8)), 1.05);
}

TEST(Balance, OneLongRequestAmongShortOnesIsSplit) {
  std::vector<std::int32_t> seq_lens(64, 128);
  seq_lens[40] = 131072;
  const Plan plan = h200_plan(seq_lens, 8, 1);
  EXPECT_LT(busiest_over_mean(plan), 1.35);
  EXPECT_GT(plan.choices.size(), 40u);
}

TEST(Balance, OneRequestIsSplitOverTheWholeDevice) {
  const Plan plan = h200_plan({32768}, 32, 8);
  const std::vector<double> tokens = tokens_per_worker(plan);
  const auto idle = std::count(tokens.begin(), tokens.end(), 0.0);
  EXPECT_LE(idle, 4) << "132 workers, 16 pieces of 8 heads";
  EXPECT_LT(busiest_over_mean(plan), 1.05);
  EXPECT_EQ(plan.merges.size(), 1u);
}

TEST(Balance, SplitsMustEarnTheSourcesTheyAdd) {
  // One request over the whole device: as many pieces as it has workers, each one source more of every row.
  const Forest forest = test::prefix_forest(1, 65536, 64, 16);
  const auto most_sources = [&](double source_seconds) {
    DeviceSpec device = DeviceSpec::h200();
    device.source_seconds = source_seconds;
    const Plan plan = Planner(device, test::config_of(8, 1, 16)).plan(forest);
    int most = 0;
    for (const Merge& merge : plan.merges) most = std::max(most, merge.num_sources);
    EXPECT_GE(plan.model.merge_seconds, most * source_seconds);
    return most;
  };
  EXPECT_GT(most_sources(0), 100);
  EXPECT_EQ(most_sources(1e-5), 0) << "one worker alone takes less than any cut that is tried";
}

TEST(Balance, MoreWorkersThanTheWorkIsWorth) {
  DeviceSpec device = DeviceSpec::generic_cpu(200);
  const Forest forest = separate_forest(std::vector<std::int32_t>{40, 20}, 16);
  const Plan plan = Planner(device, config_of(4, 1, 16)).plan(forest);
  plan.check(forest);
  EXPECT_EQ(plan.items.size(), 2u) << "a split would not earn its barrier";
}

TEST(Balance, AShortLaneIsNotSplitForNothing) {
  // The products of the shared part hide under the reads of the private parts.
  const Forest forest = test::prefix_forest(256, 4096, 4096, 16);
  const Plan plan = Planner(DeviceSpec::h200(), config_of(32, 8, 16)).plan(forest);
  EXPECT_LE(plan.choices[0].splits, 8);
  EXPECT_LT(plan.model.seconds, 1.05 * plan.model.read_seconds);
}

TEST(Balance, TheShortBandFillsUpWhatTheLongOneLeaves) {
  const Plan plan = h200_plan(std::vector<std::int32_t>(256, 8192), 32, 8);  // 15.5 units per worker
  const std::int32_t* band = plan.schedule.data() + plan.schedule_offset(0, 1, 1);
  EXPECT_GT(band[0], 0);
  EXPECT_GT(band[plan.num_workers], band[0]);
  std::int32_t whole = 0;
  for (const WorkItem& item : plan.items) whole += item.partial_begin < 0;
  EXPECT_GE(whole, 240) << "most requests stay whole";
}

}  // namespace
}  // namespace trunkline
