// Random batches on random devices.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <bit>
#include <cstring>
#include <utility>

#include "plan/support.hpp"

namespace trunkline {
namespace {

struct RandomBatch {
  int page_size = 1;
  std::vector<std::int32_t> indptr{0}, pages, seq_lens, qo_lens;

  Forest forest() const {
    return Forest::from_block_tables(BlockTables::csr(indptr, pages), seq_lens, page_size, {qo_lens, {}, 0});
  }
};

/// Requests that each start with some pages of an earlier one, now and then all of them.
RandomBatch random_batch() {
  RandomBatch batch;
  batch.page_size = *rc::gen::element(1, 2, 4, 16);
  const int num_requests = *rc::gen::inRange(0, 24);
  const int most_pages = *rc::gen::element(2, 12, 200);
  std::int32_t next_page = 0;
  for (int r = 0; r < num_requests; ++r) {
    std::vector<std::int32_t> own;
    if (r > 0 && *rc::gen::inRange(0, 4) > 0) {
      const int like = *rc::gen::inRange(0, r);
      const std::int32_t length = batch.indptr[like + 1] - batch.indptr[like];
      const auto begin = batch.pages.begin() + batch.indptr[like];
      own.assign(begin, begin + *rc::gen::inRange(0, length + 1));
    }
    const int fresh = *rc::gen::element(0, 0, 1, *rc::gen::inRange(0, most_pages));
    for (int p = 0; p < fresh; ++p) own.push_back(next_page++);
    std::int32_t seq_len = 0;
    if (!own.empty()) {
      seq_len = static_cast<std::int32_t>(own.size()) * batch.page_size - *rc::gen::inRange(0, batch.page_size);
    }
    batch.pages.insert(batch.pages.end(), own.begin(), own.end());
    batch.indptr.push_back(static_cast<std::int32_t>(batch.pages.size()));
    batch.seq_lens.push_back(seq_len);
    batch.qo_lens.push_back(seq_len == 0 ? *rc::gen::inRange(0, 3) : std::min(seq_len, *rc::gen::inRange(0, 6)));
  }
  return batch;
}

DeviceSpec random_device() {
  auto log_uniform = [](double low, double high) {
    return low * std::pow(high / low, *rc::gen::inRange(0, 1001) / 1000.0);
  };
  auto lane = [&](int most_rows) {
    DeviceSpec::Lane made;
    made.max_rows = *rc::gen::inRange(1, most_rows + 1);
    made.row_granule = *rc::gen::element(1, 8, 16, 64);
    made.flops = log_uniform(1e9, 1e15);
    made.item_seconds = *rc::gen::element(0.0, 1e-7, 1e-6, 1e-4);
    return made;
  };
  DeviceSpec device;
  device.num_workers = *rc::gen::inRange(1, 201);
  const int lanes = *rc::gen::inRange(0, 4);
  if (lanes != 1) device.wide = lane(256);
  if (lanes != 2) device.narrow = lane(64);
  device.lanes_overlap = *rc::gen::arbitrary<bool>();
  if (*rc::gen::arbitrary<bool>()) device.paired_flops = device.wide.flops * *rc::gen::element(0.8, 1.0, 1.1, 2.5);
  device.overlap_penalty = *rc::gen::element(0.0, 0.2, 1.0);
  device.read_bandwidth = log_uniform(1e9, 1e13);
  device.worker_bandwidth = log_uniform(1e9, 1e11);
  device.partial_bandwidth = log_uniform(1e9, 1e13);
  device.merge_seconds = *rc::gen::element(0.0, 1e-7, 1e-6);
  device.source_seconds = *rc::gen::element(0.0, 2e-8, 1e-6);
  device.phase_seconds = *rc::gen::element(0.0, 1e-6, 5e-6);
  device.launch_seconds = 2e-6;
  return device;
}

AttentionConfig random_config(int page_size) {
  const int num_kv_heads = *rc::gen::element(1, 2, 8, 32);
  return test::config_of(num_kv_heads * *rc::gen::inRange(1, 65), num_kv_heads, page_size);
}

/// Items respect the lanes: no more rows than a lane takes, few rows in the narrow lane.
void assert_lanes(const Plan& plan, const DeviceSpec& device) {
  if (plan.paired) RC_ASSERT(device.paired_flops > 0 && device.lanes_overlap && device.num_workers % 2 == 0);
  for (const Phase& phase : plan.phases) {
    for (std::int32_t i = phase.item_begin; i < phase.item_end; ++i) {
      const bool wide = i < phase.wide_end;
      const int workers = wide && plan.paired ? 2 : 1;
      RC_ASSERT(plan.items[i].num_rows <= workers * (wide ? device.wide : device.narrow).max_rows);
      if (wide) RC_ASSERT(plan.items[i].num_rows > device.narrow.max_rows);
    }
  }
}

template <class Entry>
void assert_same_bytes(const std::vector<Entry>& got, const std::vector<Entry>& expected) {
  static_assert(std::has_unique_object_representations_v<Entry>);
  RC_ASSERT(got.size() == expected.size());
  const bool same = got.empty() || std::memcmp(got.data(), expected.data(), got.size() * sizeof(Entry)) == 0;
  RC_ASSERT(same);
}

/// To the last bit, the model's numbers too.
void assert_same(const Plan& got, const Plan& expected) {
  assert_same_bytes(got.query_tokens, expected.query_tokens);
  assert_same_bytes(got.items, expected.items);
  assert_same_bytes(got.segments, expected.segments);
  assert_same_bytes(got.merges, expected.merges);
  assert_same_bytes(got.merge_sources, expected.merge_sources);
  assert_same_bytes(got.phases, expected.phases);
  assert_same_bytes(got.schedule, expected.schedule);
  RC_ASSERT(got.num_partial_rows == expected.num_partial_rows);
  RC_ASSERT(got.shed == expected.shed);
  RC_ASSERT(got.paired == expected.paired);
  const auto numbers = [](const Plan& plan) {
    const Plan::Model& m = plan.model;
    std::vector<std::uint64_t> bits;
    for (const double value : {m.seconds, m.read_seconds, m.item_seconds, m.wide_seconds, m.narrow_seconds,
                               m.merge_seconds, m.fixed_seconds, m.operations}) {
      bits.push_back(std::bit_cast<std::uint64_t>(value));
    }
    for (const Plan::NodeChoice& choice : plan.choices) {
      for (const std::int32_t value :
           {choice.node, choice.kept ? 1 : 0, choice.tokens, choice.rows, choice.row_tiles, choice.splits}) {
        bits.push_back(static_cast<std::uint64_t>(value));
      }
      bits.push_back(std::bit_cast<std::uint64_t>(choice.seconds));
    }
    return bits;
  };
  RC_ASSERT(numbers(got) == numbers(expected));
}

/// A decode step: all requests with tokens grow by one, or some of them; now and then one leaves.
Deltas random_step(const Forest& forest, std::int32_t& next_page) {
  Deltas deltas;
  const bool all = *rc::gen::inRange(0, 3) > 0;
  const int leaving = *rc::gen::inRange(0, 4) == 0 ? *rc::gen::inRange(0, forest.num_requests() + 1) : -1;
  for (int r = 0; r < forest.num_requests(); ++r) {
    const RequestId id = forest.request_ids()[r];
    const std::int32_t seq_len = forest.seq_lens()[r];
    if (r == leaving) {
      deltas.leave.push_back(id);
    } else if (seq_len > 0 && (all || *rc::gen::arbitrary<bool>())) {
      deltas.grow.push_back({id, 1, {}});
      if (seq_len % forest.page_size() == 0) deltas.grow.back().pages.push_back(next_page++);
    }
  }
  return deltas;
}

/// A plan takes well under a millisecond: 2000 cases instead of RapidCheck's 100. All by one check, for another check
/// would draw the same cases when the seed is fixed.
void check_often(const auto& property) {
  ASSERT_TRUE(rc::check([&] {
    for (int round = 0; round < 20; ++round) property();
  }));
}

constexpr Strategy strategies[] = {Strategy::automatic, Strategy::unshared, Strategy::two_phase, Strategy::hydragen};

TEST(Property, EveryPlanIsRight) {
  check_often([] {
    const RandomBatch batch = random_batch();
    const Forest forest = batch.forest();
    AttentionConfig config = random_config(batch.page_size);
    const DeviceSpec device = *rc::gen::element(0, 1, 2) == 0
                                  ? DeviceSpec::h200()
                                  : (*rc::gen::arbitrary<bool>() ? DeviceSpec::generic_cpu(4) : random_device());
    double unshared_seconds = 0;
    for (const Strategy strategy : {Strategy::unshared, Strategy::two_phase, Strategy::hydragen, Strategy::automatic}) {
      config.strategy = strategy;
      const Plan plan = Planner(device, config).plan(forest);
      plan.check(forest);
      assert_lanes(plan, device);
      RC_ASSERT(!plan.shed);
      if (strategy == Strategy::unshared) unshared_seconds = plan.model.seconds;
      if (strategy == Strategy::automatic) RC_ASSERT(plan.model.seconds <= unshared_seconds);
    }
  });
}

// What a plan object keeps from the plans before changes nothing: neither the steps of this batch nor another batch.
TEST(Property, PlanningAgainIsPlanning) {
  check_often([] {
    const RandomBatch batch = random_batch();
    Forest forest = batch.forest();
    AttentionConfig config = random_config(batch.page_size);
    config.strategy = *rc::gen::elementOf(std::vector<Strategy>(std::begin(strategies), std::end(strategies)));
    const Planner planner(*rc::gen::arbitrary<bool>() ? DeviceSpec::h200() : random_device(), config);
    const auto num_tokens = static_cast<int>(forest.num_query_tokens());
    std::optional<PlanLimits> limits;
    if (*rc::gen::arbitrary<bool>()) {
      limits = PlanLimits::of({forest.num_requests(), num_tokens, 1 << 20}, config, planner.device());
    }
    Plan plan, spare;
    auto next_page = static_cast<std::int32_t>(batch.pages.size());
    for (int step = 0; step < 4; ++step) {
      planner.plan_into(spare, forest, limits);
      std::swap(plan, spare);  // as a workspace does
      assert_same(plan, planner.plan(forest, limits));
      forest.advance(random_step(forest, next_page));
      if (*rc::gen::inRange(0, 4) == 0) planner.plan_into(spare, test::prefix_forest(8, 512, 300, batch.page_size));
    }
  });
}

TEST(Property, EveryForestWithinCapacityFits) {
  check_often([] {
    const RandomBatch batch = random_batch();
    const Forest forest = batch.forest();
    AttentionConfig config = random_config(batch.page_size);
    config.strategy = *rc::gen::elementOf(std::vector<Strategy>(std::begin(strategies), std::end(strategies)));
    const DeviceSpec device = random_device();
    PlanLimits limits =
        PlanLimits::of({forest.num_requests(), static_cast<int>(forest.num_query_tokens()), 1 << 20}, config, device);
    // Less room than that for what may be shed.
    limits.max_partial_rows = limits.max_partial_rows * *rc::gen::inRange(0, 5) / 4;
    limits.max_merge_sources = limits.max_partial_rows;
    const Plan plan = Planner(device, config).plan(forest, limits);
    plan.check(forest);
    assert_lanes(plan, device);
    RC_ASSERT(static_cast<std::int64_t>(plan.items.size()) <= limits.max_items);
    RC_ASSERT(static_cast<std::int64_t>(plan.segments.size()) <= limits.max_segments);
    RC_ASSERT(static_cast<std::int64_t>(plan.merges.size()) <= limits.max_merges);
    RC_ASSERT(static_cast<std::int64_t>(plan.merge_sources.size()) <= limits.max_merge_sources);
    RC_ASSERT(plan.num_partial_rows <= limits.max_partial_rows);
  });
}

}  // namespace
}  // namespace trunkline
