// What the commands share.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "common/accuracy.hpp"
#include "common/check_grids.hpp"
#include "common/device_spec.hpp"
#include "common/floor.hpp"
#include "common/grid.hpp"
#include "common/options.hpp"
#include "common/problem.hpp"
#include "common/random.hpp"
#include "common/reader.hpp"
#include "common/result.hpp"
#include "common/scalar.hpp"
#include "common/statistics.hpp"
#include "common/synthetic_batch.hpp"
#include "common/team.hpp"
#include "trunkline/error.hpp"

namespace trunkline::tools {
namespace {

using ::testing::ElementsAre;

TEST(Statistics, PercentilesInterpolate) {
  std::vector<double> samples;
  for (int i = 10; i >= 0; --i) samples.push_back(i);
  const Statistics statistics = summarize(samples);
  EXPECT_DOUBLE_EQ(statistics.median, 5);
  EXPECT_DOUBLE_EQ(statistics.p10, 1);
  EXPECT_DOUBLE_EQ(statistics.p90, 9);
  EXPECT_EQ(statistics.runs, 11);
  EXPECT_DOUBLE_EQ(summarize({1, 2}).median, 1.5);
  EXPECT_DOUBLE_EQ(summarize({7}).p90, 7);
  EXPECT_EQ(summarize({}).runs, 0);
}

TEST(Options, HeadsStrategiesAndBytes) {
  EXPECT_EQ(parse_heads("32/8"), (Heads{32, 8}));
  for (const char* bad : {"", "32", "/", "32/", "/8", "32/8/2", "a/b", "32/5", "-4/2", "4/0", "32 /8"}) {
    EXPECT_THROW(parse_heads(bad), Error) << bad;
  }
  EXPECT_THAT(parse_strategies("hydragen,auto,hydragen"), ElementsAre(Strategy::hydragen, Strategy::automatic));
  EXPECT_EQ(parse_strategies("all").size(), 4u);
  for (const char* bad : {"", "auto,", ",auto", "fast"}) EXPECT_THROW(parse_strategies(bad), Error) << bad;
  EXPECT_EQ(parse_bytes("0", "o"), 0);
  EXPECT_EQ(parse_bytes("4096", "o"), 4096);
  EXPECT_EQ(parse_bytes("1.5k", "o"), 1536);
  EXPECT_EQ(parse_bytes("2GiB", "o"), std::int64_t{2} << 30);
  for (const char* bad : {"", "k", "-1", "1X", "1kB", "1.2.3", "1GiBs", "1e3", "99999999999999999"}) {
    EXPECT_THROW(parse_bytes(bad, "o"), Error) << bad;
  }
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_seconds(0.00123), "1.23 ms");
}

TEST(Scalar, EveryFloat16RoundTrips) {
  for (int bits = 0; bits < 1 << 16; ++bits) {
    const float value = from_float16_bits(static_cast<std::uint16_t>(bits));
    if (std::isfinite(value)) {
      EXPECT_EQ(float16_bits(value), bits);
    }
  }
}

TEST(Scalar, RoundsToNearestEven) {
  EXPECT_EQ(float16_bits(1 + 0x1p-11f), float16_bits(1));          // tie, down to even
  EXPECT_EQ(float16_bits(1 + 3 * 0x1p-11f), float16_bits(1) + 2);  // tie, up to even
  EXPECT_EQ(float16_bits(2 - 0x1p-12f), float16_bits(2));          // carry into the exponent
  EXPECT_EQ(float16_bits(0x1p-25f), 0);                            // half of the smallest subnormal
  EXPECT_EQ(float16_bits(0x1.8p-25f), 1);
  EXPECT_EQ(from_bfloat16_bits(bfloat16_bits(1 + 0x1p-8f)), 1);
  EXPECT_EQ(from_bfloat16_bits(bfloat16_bits(1 + 3 * 0x1p-8f)), 1 + 0x1p-6f);
}

TEST(Random, FillsWithTheWantedDistribution) {
  constexpr std::size_t count = 1 << 18;
  for (DType dtype : {DType::float32, DType::float16, DType::bfloat16}) {
    std::vector<std::uint32_t> memory(count);
    fill_random(memory.data(), dtype, count, 7);
    double sum = 0, squares = 0, largest = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const double value = load_element(memory.data(), dtype, static_cast<std::int64_t>(i));
      sum += value;
      squares += value * value;
      largest = std::max(largest, std::fabs(value));
    }
    // Five standard errors of the mean, 1 / sqrt(count), and of the variance, sqrt(2 / count).
    EXPECT_NEAR(sum / count, 0, 5 / std::sqrt(double{count}));
    EXPECT_NEAR(squares / count, 1, 5 * std::sqrt(2.0 / count) + 0.01);
    EXPECT_GT(largest, 3);
    EXPECT_LT(largest, 4);
  }
  std::vector<float> a(1000), b(1000), c(1000);
  fill_random(a.data(), DType::float32, a.size(), 1);
  fill_random(b.data(), DType::float32, b.size(), 1);
  fill_random(c.data(), DType::float32, c.size(), 2);
  EXPECT_EQ(a, b);
  EXPECT_NE(a, c);
}

TEST(Team, EveryThreadRunsOncePerCall) {
  for (int threads : {1, 2, 5}) {
    Team team(threads);
    std::vector<int> calls(static_cast<std::size_t>(threads), 0);
    for (int i = 0; i < 200; ++i) team.run([&](int thread) { ++calls[static_cast<std::size_t>(thread)]; });
    for (int count : calls) EXPECT_EQ(count, 200);
  }
}

TEST(Reader, JoinsWhatTouchesAndReadsAnyShare) {
  std::vector<std::byte> memory(10000);
  const auto* base = memory.data();
  const auto extents = joined({{base + 500, 100}, {base, 500}, {base + 700, 1}, {base + 550, 100}, {base + 800, 0}});
  ASSERT_EQ(extents.size(), 2u);
  EXPECT_EQ(extents[0].data, base);
  EXPECT_EQ(extents[0].bytes, 650u);
  EXPECT_EQ(total_bytes(extents), 651u);
  Team team(3);
  const Extent odd[] = {{base + 1, 7}, {base + 100, 0}, {base + 201, 4099}};  // reads past an end show under sanitizers
  read_all(team, odd);
  read_all(team, {});
}

TEST(SyntheticBatch, PagesAreSharedByWhoHasAllTheirTokens) {
  // 40 shared tokens: two full pages of 16 shared, the third has 8 shared tokens and 5 of each request's own.
  const SyntheticBatch star(paths_of(make_case(3, 40, 5)), {1}, 16, PageOrder::sequential, 0);
  EXPECT_THAT(star.seq_lens, ElementsAre(45, 45, 45));
  EXPECT_THAT(star.indices, ElementsAre(0, 1, 2, 0, 1, 3, 0, 1, 4));
  EXPECT_THAT(star.page_tokens, ElementsAre(16, 16, 13, 13, 13));
  // Requests that end inside a page of the same node share it.
  const SyntheticBatch inside({{{0, 20}}, {{0, 24}}, {{0, 20}, {1, 4}}, {}}, {1}, 16, PageOrder::sequential, 0);
  EXPECT_THAT(inside.indices, ElementsAre(0, 1, 0, 1, 0, 2));
  EXPECT_THAT(inside.page_tokens, ElementsAre(16, 8, 8));
  EXPECT_EQ(inside.seq_lens[3], 0);
}

TEST(SyntheticBatch, RandomOrderIsAPermutation) {
  const SyntheticBatch batch(paths_of(make_case(4, 64, 40)), {1}, 16, PageOrder::random, 3);
  const std::set<std::int32_t> pages(batch.indices.begin(), batch.indices.end());
  EXPECT_EQ(static_cast<std::int64_t>(pages.size()), batch.num_pages());
  EXPECT_EQ(*pages.rbegin(), batch.num_pages() - 1);
  for (std::size_t request = 0; request < 4; ++request) {
    const auto last = static_cast<std::size_t>(batch.indices[static_cast<std::size_t>(batch.indptr[request + 1]) - 1]);
    EXPECT_EQ(batch.page_tokens[last], 8);
  }
}

TEST(Reader, ExtentsAreTheDistinctTokens) {
  const SyntheticBatch batch(paths_of(make_case(3, 40, 5)), {1}, 16, PageOrder::random, 1);
  for (KvLayout layout : {KvLayout::nhd, KvLayout::hnd}) {
    Problem problem({{4, 2}, 8, 16, DType::float32, layout}, 3, batch.num_pages(), 1);
    const auto extents = distinct_extents(batch.forest(), problem.kv.view);
    EXPECT_EQ(total_bytes(extents), (32 + 3 * 13) * 2 * 2 * 8 * sizeof(float));
    // What lies outside is poisoned, what lies inside is not.
    problem.poison_unused_slots(batch.page_tokens);
    for (const Extent& extent : extents) {
      for (std::size_t i = 0; i < extent.bytes / sizeof(float); ++i) {
        EXPECT_FALSE(std::isnan(reinterpret_cast<const float*>(extent.data)[i]));
      }
    }
    const auto* all = static_cast<const float*>(problem.kv.memory.data());
    std::size_t poisoned = 0;
    for (std::size_t i = 0; i < problem.kv.memory.size() / sizeof(float); ++i) poisoned += std::isnan(all[i]);
    EXPECT_EQ(poisoned * sizeof(float) + total_bytes(extents), problem.kv.memory.size());
  }
}

TEST(Accuracy, SeesWhatIsWrong) {
  const SyntheticBatch batch(paths_of(make_case(2, 16, 5)), {1}, 16, PageOrder::sequential, 1);
  Problem problem({{2, 1}, 8, 16, DType::float32}, 2, batch.num_pages(), 1);
  const Computed computed = problem.computed(batch.tables(), batch.seq_lens, batch.qo_lens);
  const Oracle oracle(computed, 100, 1);
  EXPECT_EQ(oracle.compare().worst, std::numeric_limits<double>::infinity());  // the results are still NaN
  const ReferenceResult right = reference_attention(computed.q, computed.kv, computed.tables, computed.seq_lens,
                                                    computed.qo_lens, computed.scale);
  auto* out = static_cast<float*>(problem.out.data);
  auto* lse = static_cast<float*>(problem.lse.data);
  for (std::size_t i = 0; i < right.out.size(); ++i) out[i] = static_cast<float>(right.out[i]);
  for (std::size_t i = 0; i < right.lse.size(); ++i) lse[i] = static_cast<float>(right.lse[i]);
  EXPECT_TRUE(oracle.compare().ok());
  EXPECT_EQ(oracle.compare().rows, 4);
  out[11] += static_cast<float>(3 * right.bound[11]);
  EXPECT_NEAR(oracle.compare().worst, 3, 0.6);
  EXPECT_DOUBLE_EQ(oracle.compare().error_bound, right.bound[11]);
  out[11] = static_cast<float>(right.out[11]);
  lse[3] += static_cast<float>(100 * right.lse_bound[3]);
  EXPECT_FALSE(oracle.compare().ok());
}

TEST(Accuracy, ThreadsOfTheOracleAgree) {
  const SyntheticBatch batch(paths_of(make_case(5, 16, 9)), {2}, 16, PageOrder::random, 1);
  Problem problem({{4, 2}, 8, 16, DType::bfloat16}, 10, batch.num_pages(), 1);
  const Computed computed = problem.computed(batch.tables(), batch.seq_lens, batch.qo_lens);
  std::memcpy(problem.out.data, problem.q.data, 10 * 4 * 8 * 2);  // something
  std::memset(problem.lse.data, 0, 10 * 4 * 4);
  const Accuracy alone = Oracle(computed, 11, 3).compare();
  for (int threads : {2, 11, 64}) {
    const Accuracy together = Oracle(computed, 11, 3, threads).compare();
    EXPECT_EQ(together.worst, alone.worst);
    EXPECT_EQ(together.rows, 11);
  }
}

TEST(SyntheticBatch, UnusedPagesLieAmongTheOthers) {
  const auto paths = paths_of(make_case(8, 64, 32));
  const SyntheticBatch batch(paths, {1}, 16, PageOrder::random, 1, 5);
  EXPECT_EQ(batch.num_pages(), 4 + 8 * 2 + 5);
  const std::set<std::int32_t> used(batch.indices.begin(), batch.indices.end());
  int unused = 0;
  for (std::int32_t page = 0; page < batch.num_pages(); ++page) {
    EXPECT_EQ(used.contains(page), batch.page_tokens[static_cast<std::size_t>(page)] > 0);
    unused += used.contains(page) ? 0 : 1;
  }
  EXPECT_EQ(unused, 5);
}

TEST(SyntheticBatch, OperationsCountWhatRowsSee) {
  // Two requests of 10 tokens with 3 queries each: these see 8, 9 and 10.
  const SyntheticBatch batch(paths_of(make_case(2, 0, 10)), {3}, 16, PageOrder::random, 1);
  EXPECT_EQ(batch.operations(4, 64), 4.0 * 4 * 64 * 2 * (8 + 9 + 10));
}

TEST(Random, ValuesOf16BitsAreThoseFilled) {
  const std::vector<std::uint16_t> values = random_values_16(DType::bfloat16);
  const std::set<std::uint16_t> known(values.begin(), values.end());
  std::vector<std::uint16_t> filled(5000);
  fill_random(filled.data(), DType::bfloat16, filled.size(), 3);
  for (std::uint16_t value : filled) EXPECT_TRUE(known.contains(value));
}

TEST(Accuracy, MergeKeepsTheWorse) {
  Accuracy a{1e-3, 2e-3, 0.5, 10}, b{4e-3, 2e-3, 2.0, 5};
  a.merge(b);
  EXPECT_EQ(a.worst, 2.0);
  EXPECT_EQ(a.rows, 15);
  a.merge({1e-9, 1e-3, 1e-6, 1});
  EXPECT_EQ(a.max_error, 4e-3);
  EXPECT_EQ(a.rows, 16);
}

TEST(DeviceSpecJson, RoundTrips) {
  const DeviceSpec spec = DeviceSpec::h200();
  EXPECT_EQ(to_json(device_spec_from_json(nlohmann::json(to_json(spec)), "x")), to_json(spec));
  const nlohmann::json whole(to_json(spec));
  for (const auto& entry : whole.items()) {
    const std::string& field = entry.key();
    nlohmann::json lacking = whole;
    lacking.erase(field);
    EXPECT_THROW(device_spec_from_json(lacking, "x"), Error) << field;
  }
}

TEST(Floor, HasBothSides) {
  FloorMeter meter(2);
  std::vector<std::byte> memory(1 << 20);
  const Extent extent{memory.data(), memory.size()};
  EXPECT_GT(meter.read_seconds({&extent, 1}), 0);
  EXPECT_GT(meter.matrix_rate(), 1e8);
  EXPECT_STREQ((Floor{2, 1}.bound()), "bytes");
  EXPECT_STREQ((Floor{1, 2}.bound()), "operations");
  EXPECT_EQ((Floor{1, 2}.seconds()), 2);
}

TEST(CheckGrids, HoldWhatTheyPromise) {
  std::set<std::string> names;
  int wide = 0;
  for_each_check_case(false, [&](const CheckCase& one) {
    EXPECT_TRUE(names.insert(one.name).second) << "twice: " << one.name;
    EXPECT_TRUE(one.qo_lens.size() == 1 || one.qo_lens.size() == one.paths.size()) << one.name;
    wide += one.name.starts_with("tk_port wide");
  });
  EXPECT_EQ(wide, 1680);
  int quick = 0;
  for_each_check_case(true, [&](const CheckCase& one) {
    EXPECT_TRUE(names.contains(one.name));
    ++quick;
  });
  EXPECT_LT(quick, 250);
}

}  // namespace
}  // namespace trunkline::tools
