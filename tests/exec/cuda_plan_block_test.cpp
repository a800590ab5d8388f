// The plan as CUDA kernels read it, checked on the host: every forest within capacity fits the block, and what the
// block says is what the plan says.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "exec/batch.hpp"
#include "exec/cuda/plan_block.hpp"
#include "exec/server.hpp"

namespace trunkline::test {
namespace {

using exec::WorkspaceSizes;
using kernels::CtaWork;
using kernels::CudaItem;
using kernels::PlanHeader;

template <class T>
const T* at(const std::byte* block, std::uint32_t offset) {
  return reinterpret_cast<const T*>(block + offset);
}

template <class T>
bool same_bytes(const T* got, const std::vector<T>& expected) {
  return expected.empty() || std::memcmp(got, expected.data(), expected.size() * sizeof(T)) == 0;
}

// Row of q of the item's first token when the others follow it, the slow way.
std::int32_t first_q(const Plan& plan, const WorkItem& item) {
  const std::int32_t first = item.row_begin / plan.group_size;
  const std::int32_t q = plan.query_tokens[first].q_index;
  for (std::int32_t row = item.row_begin; row < item.row_begin + item.num_rows; ++row) {
    const std::int32_t token = row / plan.group_size;
    if (plan.query_tokens[token].q_index != q + token - first) return -1;
  }
  return q;
}

// Of one page after the other as far as there is room, the slow way.
std::vector<std::int32_t> first_pages(const Plan& plan, const Forest& forest, std::int32_t item, int page_size) {
  const Segment& segment = plan.segments[plan.items[item].segment_begin];
  const Forest::Table table = forest.table();
  std::vector<std::int32_t> pages;
  for (std::int32_t t = segment.token_begin; t < segment.token_end; ++t) {
    if (t > segment.token_begin && t % page_size != 0) continue;
    if (pages.size() == CtaWork::num_first_pages) break;
    pages.push_back(table.entries[segment.table_row * table.row_stride + t / page_size]);
  }
  return pages;
}

/// What is left of an item for the second CTA of a pair.
void expect_second(const CudaItem& second, const CudaItem& first, const Plan& plan, const WorkItem& item) {
  ASSERT_EQ(first.num_rows + second.num_rows, item.num_rows);
  CudaItem expected = first;
  expected.num_rows = second.num_rows;
  if (second.num_rows > 0) {
    WorkItem rest = item;
    rest.row_begin += first.num_rows;
    rest.num_rows -= first.num_rows;
    ASSERT_EQ(first.num_rows, 128);
    expected.row_begin = rest.row_begin;
    if (item.partial_begin >= 0) expected.partial_begin += first.num_rows;
    expected.first_q = first_q(plan, rest);
  }
  ASSERT_EQ(std::memcmp(&second, &expected, sizeof(second)), 0);
}

// Returns its tiles in `num_tiles`.
void expect_lane(const CtaWork::Lane& lane, const Plan& plan, const Forest& forest, int page_size, std::size_t phase,
                 int which, int cta, const std::byte* block, std::int32_t& num_tiles) {
  const std::int32_t item_base = which == 0 ? plan.phases[phase].item_begin : plan.phases[phase].wide_end;
  const auto* items = at<CudaItem>(block, lane.items);
  const auto* const all = at<CudaItem>(block, at<PlanHeader>(block, 0)->items);
  const bool paired = which == 0 && plan.paired;
  if (paired && cta % 2 == 1) {
    for (std::int32_t i = 0; i < plan.phases[phase].wide_end - item_base; ++i) {
      const WorkItem& item = plan.items[item_base + i];
      ASSERT_NO_FATAL_FAILURE(expect_second(items[i], all[item_base + i], plan, item));
    }
  } else {
    ASSERT_EQ(items, all + item_base);
  }
  const auto band = [&](int b, int w) { return plan.schedule[plan.schedule_offset(phase, which, b) + w]; };
  std::vector<std::int32_t> expected, got;
  const int of = paired ? cta / 2 * 2 : cta;  // whose units they are
  for (const int b : {0, 1}) {
    for (std::int32_t unit = band(b, of); unit < band(b, of + 1); ++unit) expected.push_back(unit);
    for (std::int32_t unit = lane.begin[b]; unit < lane.end[b]; ++unit) got.push_back(unit);
  }
  ASSERT_EQ(got, expected);
  ASSERT_EQ(lane.paired, paired ? 1 : 0);
  num_tiles = 0;
  for (std::size_t i = 0, heads = 0; i < got.size(); i += heads) {  // heads of an item side by side, some at once
    const CudaItem& item = items[got[i] / plan.num_kv_heads];
    const auto follows = [&](std::size_t j) {
      return j < got.size() && got[j] == got[j - 1] + 1 && got[j] % plan.num_kv_heads != 0;
    };
    for (heads = 1; heads < static_cast<std::size_t>(item.heads_at_once) && follows(i + heads);) ++heads;
    num_tiles += (static_cast<int>(heads) * (item.token_end - item.token_begin) + 63) / 64;
  }
  if (expected.empty()) return;
  ASSERT_LT(lane.begin[0], lane.end[0]) << "run 0 is empty, run 1 is not";
  ASSERT_EQ(lane.first_head, expected[0] % plan.num_kv_heads);
  const CudaItem& first = items[expected[0] / plan.num_kv_heads];
  ASSERT_EQ(std::memcmp(&lane.first, &first, sizeof(first)), 0);
  const auto pages = first_pages(plan, forest, item_base + expected[0] / plan.num_kv_heads, page_size);
  ASSERT_TRUE(same_bytes(lane.first_pages, pages));
}

bool is_wide(const Plan& plan, std::size_t item) {
  return std::any_of(plan.phases.begin(), plan.phases.end(), [item](const Phase& phase) {
    return static_cast<std::size_t>(phase.item_begin) <= item && item < static_cast<std::size_t>(phase.wide_end);
  });
}

int num_units(const CtaWork::Lane& lane) { return lane.end[0] - lane.begin[0] + lane.end[1] - lane.begin[1]; }

void expect_block(const WorkspaceSizes& sizes, const Plan& plan, const Forest& forest,
                  const std::vector<std::int32_t>& row_of) {
  const std::size_t most = exec::cuda::plan_block_bytes(sizes);
  std::vector<std::byte> memory(most + 2 * 128, std::byte{0x5a});
  void* aligned = memory.data();
  std::size_t space = memory.size();
  auto* block = static_cast<std::byte*>(std::align(128, most, aligned, space));
  exec::cuda::PlanBlock writer(sizes);
  const std::size_t used = writer.write(plan, forest.table(), row_of, block);
  ASSERT_LE(used, most);
  for (const std::byte* beyond = block + used; beyond < memory.data() + memory.size(); ++beyond) {
    ASSERT_EQ(*beyond, std::byte{0x5a}) << "written beyond what was said";
  }
  const auto& header = *at<PlanHeader>(block, 0);
  ASSERT_EQ(header.num_bytes, used);
  ASSERT_GE(header.piece_rows, 1);
  for (const Merge& merge : plan.merges) ASSERT_GE(header.piece_rows * header.pieces.divisor, merge.num_rows);
  ASSERT_EQ(header.num_phases, static_cast<std::int32_t>(plan.phases.size()));
  ASSERT_EQ(header.num_items, static_cast<std::int32_t>(plan.items.size()));
  ASSERT_EQ(header.num_merges, static_cast<std::int32_t>(plan.merges.size()));
  ASSERT_EQ(header.num_query_tokens, static_cast<std::int32_t>(plan.query_tokens.size()));
  for (const std::uint32_t offset :
       {header.query_tokens, header.items, header.phases, header.merges, header.merge_sources}) {
    ASSERT_EQ(offset % 128, 0u);
    ASSERT_LE(offset, used);
  }
  EXPECT_TRUE(same_bytes(at<QueryToken>(block, header.query_tokens), plan.query_tokens));
  EXPECT_TRUE(same_bytes(at<Phase>(block, header.phases), plan.phases));
  EXPECT_TRUE(same_bytes(at<Merge>(block, header.merges), plan.merges));
  EXPECT_TRUE(same_bytes(at<std::int32_t>(block, header.merge_sources), plan.merge_sources));
  const auto* items = at<CudaItem>(block, header.items);
  for (std::size_t i = 0; i < plan.items.size(); ++i) {
    const WorkItem& item = plan.items[i];
    ASSERT_EQ(item.num_segments, 1);
    const Segment& segment = plan.segments[item.segment_begin];
    ASSERT_EQ(items[i].row_begin, item.row_begin);
    WorkItem mine = item;
    if (plan.paired) mine.num_rows = std::min(item.num_rows, 128);
    ASSERT_EQ(items[i].num_rows, mine.num_rows);
    ASSERT_EQ(items[i].table_row, row_of.empty() ? segment.table_row : row_of[segment.table_row]);
    ASSERT_EQ(items[i].token_begin, segment.token_begin);
    ASSERT_EQ(items[i].token_end, segment.token_end);
    ASSERT_EQ(items[i].partial_begin, item.partial_begin);
    ASSERT_EQ(items[i].masked, item.masked);
    ASSERT_EQ(items[i].first_q, first_q(plan, mine));
    const bool packed = !is_wide(plan, i) && segment.token_end - segment.token_begin <= kernels::packed_tokens;
    ASSERT_EQ(items[i].heads_at_once,
              packed ? std::clamp(kernels::packed_rows / item.num_rows, 1, plan.num_kv_heads) : 1);
  }
  const auto* ctas = at<CtaWork>(block, sizeof(PlanHeader));
  for (int cta = 0; sizes.scheduled && plan.phases.empty() && cta < plan.num_workers; ++cta) {
    ASSERT_EQ(num_units(ctas[cta].wide) + num_units(ctas[cta].narrow), 0);
  }
  for (std::size_t phase = 0; sizes.scheduled && phase < plan.phases.size(); ++phase) {
    for (int cta = 0; cta < plan.num_workers; ++cta) {
      const CtaWork& work = ctas[phase * plan.num_workers + cta];
      std::int32_t wide = 0, narrow = 0;
      ASSERT_NO_FATAL_FAILURE(expect_lane(work.wide, plan, forest, sizes.page_size, phase, 0, cta, block, wide));
      ASSERT_NO_FATAL_FAILURE(expect_lane(work.narrow, plan, forest, sizes.page_size, phase, 1, cta, block, narrow));
      ASSERT_EQ(work.wide.num_stages + work.narrow.num_stages, kernels::ring_stages);
      ASSERT_GE(work.wide.num_stages, wide > 0 ? 2 : 0);
      ASSERT_GE(work.narrow.num_stages, narrow > 0 ? 3 : 0);
      const int of = plan.paired ? cta / 2 * 2 : cta;  // a pair's rings go round together
      ASSERT_EQ(work.wide.num_stages, ctas[phase * plan.num_workers + of].wide.num_stages);
    }
  }
}

WorkspaceSizes sizes_of(const AttentionConfig& config, const Capacity& capacity, const DeviceSpec& device,
                        bool scheduled) {
  WorkspaceSizes sizes;
  sizes.max_requests = capacity.max_requests;
  sizes.max_table_width = capacity.max_table_width;
  sizes.limits = PlanLimits::of(capacity, config, device);
  sizes.num_kv_heads = config.num_kv_heads;
  sizes.group_size = config.group_size();
  sizes.head_dim = config.head_dim;
  sizes.page_size = config.page_size;
  sizes.num_workers = device.num_workers;
  sizes.scheduled = scheduled;
  return sizes;
}

TEST(CudaPlanBlock, SaysWhatThePlanSays) {
  for (const Strategy strategy : {Strategy::automatic, Strategy::unshared, Strategy::two_phase, Strategy::hydragen}) {
    for (const NamedRequests& requests : corner_cases(16)) {
      BatchSpec spec;
      spec.requests = requests.requests;
      spec.strategy = strategy;
      const Batch batch(spec);
      DeviceSpec device = DeviceSpec::h200();
      for (const int workers : {1, 5, 6, 132}) {
        device.num_workers = workers;
        const Forest forest = batch.forest();
        const WorkspaceSizes sizes = sizes_of(batch.config(), batch.capacity(), device, workers != 5);
        const Plan plan = Planner(device, batch.config()).plan(forest, sizes.limits);
        SCOPED_TRACE(requests.name + ", " + to_string(strategy));
        ASSERT_NO_FATAL_FAILURE(expect_block(sizes, plan, forest, {}));
      }
    }
  }
}

TEST(CudaPlanBlock, EveryForestWithinCapacityFits) {
  EXPECT_TRUE(rc::check([] {
    const auto seed = *rc::gen::inRange(0u, 100000u);
    const int steps = *rc::gen::inRange(0, 40);
    Server server(seed);
    for (int step = 0; step < steps; ++step) server.step();
    AttentionConfig config;
    config.num_kv_heads = *rc::gen::element(1, 2, 8);
    config.num_qo_heads = config.num_kv_heads * *rc::gen::element(1, 3, 8);
    config.head_dim = 64;
    config.page_size = Server::page_size;
    config.strategy =
        *rc::gen::element(Strategy::automatic, Strategy::unshared, Strategy::two_phase, Strategy::hydragen);
    DeviceSpec device = DeviceSpec::h200();
    device.num_workers = *rc::gen::element(1, 16, 132);
    device.wide.max_rows = *rc::gen::element(64, 128, 256);
    // No more than the forest needs, so that the limits bind.
    std::int32_t longest = 0;
    for (const Server::Request& request : server.requests()) longest = std::max(longest, request.seq_len);
    const auto requests = static_cast<int>(server.requests().size());
    const Capacity capacity{requests, requests, (longest + Server::page_size - 1) / Server::page_size};
    const WorkspaceSizes sizes = sizes_of(config, capacity, device, *rc::gen::arbitrary<bool>());
    const Plan plan = Planner(device, config).plan(server.forest(), sizes.limits);
    plan.check(server.forest());
    // Rows numbered backwards, as when rows of the table are requests.
    std::vector<std::int32_t> row_of(static_cast<std::size_t>(server.forest().table().num_rows));
    for (std::size_t row = 0; row < row_of.size(); ++row) row_of[row] = static_cast<std::int32_t>(row_of.size() - row);
    expect_block(sizes, plan, server.forest(), row_of);
    RC_ASSERT(!::testing::Test::HasFailure());
  }));
}

// A captured launch may find it: its CTAs must find no units.
TEST(CudaPlanBlock, OfNoRequestsHasAScheduleOfNoUnits) {
  AttentionConfig config;
  config.num_qo_heads = config.num_kv_heads = 2;
  config.head_dim = 64;
  config.page_size = 16;
  const DeviceSpec device = DeviceSpec::h200();
  const WorkspaceSizes sizes = sizes_of(config, {4, 4, 4}, device, true);
  const Plan plan = Planner(device, config).plan(Forest(), sizes.limits);
  ASSERT_TRUE(plan.phases.empty());
  ASSERT_EQ(plan.num_workers, device.num_workers);
  ASSERT_NO_FATAL_FAILURE(expect_block(sizes, plan, Forest(), {}));
}

TEST(CudaPlanBlock, BeyondFourGibibytesIsRefused) {
  WorkspaceSizes sizes;
  sizes.limits.max_phases = 1;
  sizes.limits.max_items = std::int64_t{1} << 30;
  EXPECT_THROW(exec::cuda::plan_block_bytes(sizes), Error);
}

}  // namespace
}  // namespace trunkline::test
