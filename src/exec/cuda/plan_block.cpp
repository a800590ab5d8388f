#include "exec/cuda/plan_block.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/check.hpp"

namespace trunkline::exec::cuda {
namespace {

using kernels::CtaWork;
using kernels::CudaItem;
using kernels::PlanHeader;

// Of every array in the block: a line of the L2 cache.
constexpr std::size_t alignment = 128;

std::size_t room(std::int64_t count, std::size_t element) {
  return round_up(static_cast<std::size_t>(count) * element, alignment);
}

// Takes the arrays of a block one after the other.
class Writer {
 public:
  explicit Writer(std::byte* block) : block_(block) {}

  template <class T>
  T* take(std::size_t count, std::uint32_t* offset = nullptr) {
    if (offset != nullptr) *offset = static_cast<std::uint32_t>(used_);
    auto* result = reinterpret_cast<T*>(block_ + used_);
    used_ += round_up(count * sizeof(T), alignment);
    return result;
  }
  template <class T>
  void copy(const std::vector<T>& entries, std::uint32_t& offset) {
    T* to = take<T>(entries.size(), &offset);
    if (!entries.empty()) std::memcpy(to, entries.data(), entries.size() * sizeof(T));
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* block_;
  std::size_t used_ = 0;
};

// The item of a unit, for units that ascend: without a division for each.
class ItemOfUnit {
 public:
  explicit ItemOfUnit(int num_kv_heads) : num_kv_heads_(num_kv_heads) {}

  void move_to(int unit) {
    for (; unit >= end(); begin_ += num_kv_heads_) ++item_;
  }
  int item() const { return item_; }
  int head(int unit) const { return unit - begin_; }
  int end() const { return begin_ + num_kv_heads_; }  // of the item's units

 private:
  int num_kv_heads_, item_ = 0, begin_ = 0;
};

// Of a segment's tokens, in order, as many as there is room for.
void copy_pages(const Segment& segment, const Forest::Table& table, int page_size,
                std::int32_t (&pages)[CtaWork::num_first_pages]) {
  const int first = segment.token_begin / page_size, last = (segment.token_end - 1) / page_size;
  const auto row = table.entries.subspan(static_cast<std::size_t>(segment.table_row) * table.row_stride);
  std::copy_n(row.begin() + first, std::min(last + 1 - first, CtaWork::num_first_pages), pages);
}

// Of so many heads side by side.
int num_tiles_of(const CudaItem& item, int num_heads) {
  using kernels::tile_tokens;
  const int tokens = item.token_end - item.token_begin;
  const auto tiles = [&](int heads) { return ceil_div(heads * tokens, tile_tokens); };
  return num_heads / item.heads_at_once * tiles(item.heads_at_once) + tiles(num_heads % item.heads_at_once);
}

// Stages of the narrow lane, given tiles of either. Two of K and V keep the wide consumers busy, three keep them at
// their best rate; the narrow consumer holds one while it works, and the full bandwidth takes three more on their way.
int narrow_stages(int wide_tiles, int narrow_tiles) {
  if (wide_tiles == 0) return kernels::ring_stages;
  if (narrow_tiles == 0) return 0;
  return narrow_tiles > wide_tiles ? 4 : 3;
}

// Of a lane's units: each CTA's, or of the first CTAs of pairs. Counts their tiles.
void write_lane(const Plan& plan, const CudaItem* items, const Forest::Table& table, int page_size, std::size_t phase,
                int lane, std::uint32_t items_at, CtaWork* ctas, std::int32_t* tiles) {
  const std::int32_t item_base = lane == 0 ? plan.phases[phase].item_begin : plan.phases[phase].wide_end;
  const std::int32_t* bands[2];
  ItemOfUnit cursors[2] = {ItemOfUnit(plan.num_kv_heads), ItemOfUnit(plan.num_kv_heads)};
  for (const int band : {0, 1}) bands[band] = plan.schedule.data() + plan.schedule_offset(phase, lane, band);
  for (int w = 0; w < plan.num_workers; ++w) {
    CtaWork::Lane& work = lane == 0 ? ctas[w].wide : ctas[w].narrow;
    work = {};
    work.items = items_at + static_cast<std::uint32_t>(item_base * sizeof(CudaItem));
    std::int32_t num_tiles = 0;
    int run = 0;
    for (const int band : {0, 1}) {
      const int begin = bands[band][w], end = bands[band][w + 1];
      if (begin == end && band == 0) continue;  // run 0 is the short band's
      work.begin[run] = begin;
      work.end[run] = end;
      ItemOfUnit& at = cursors[band];
      for (int unit = begin; unit < end; unit = std::min(end, at.end())) {  // the units of an item at once
        at.move_to(unit);
        const CudaItem& item = items[item_base + at.item()];
        num_tiles += num_tiles_of(item, std::min(end, at.end()) - unit);
        if (run == 0 && unit == begin) {
          work.first = item;
          work.first_head = at.head(unit);
          const WorkItem& planned = plan.items[item_base + at.item()];
          copy_pages(plan.segments[planned.segment_begin], table, page_size, work.first_pages);
        }
      }
      ++run;
    }
    tiles[w] = num_tiles;
  }
}

}  // namespace

std::size_t plan_block_bytes(const WorkspaceSizes& sizes) {
  const PlanLimits& limits = sizes.limits;
  const std::int64_t ctas = sizes.scheduled ? std::max<std::int64_t>(limits.max_phases, 1) * sizes.num_workers : 0;
  const std::size_t bytes =
      sizeof(PlanHeader) + room(ctas, sizeof(CtaWork)) + room(limits.max_query_tokens, sizeof(QueryToken)) +
      room(limits.max_items, sizeof(CudaItem)) * (sizes.scheduled ? 2 : 1) + room(limits.max_phases, sizeof(Phase)) +
      room(limits.max_merges, sizeof(Merge)) + room(limits.max_merge_sources, sizeof(std::int32_t));
  require(bytes <= std::numeric_limits<std::uint32_t>::max(), "capacity",
          "one whose largest plan takes less than 4 GiB", bytes);
  return bytes;
}

PlanBlock::PlanBlock(const WorkspaceSizes& sizes)
    : scheduled_(sizes.scheduled), group_size_(sizes.group_size), page_size_(sizes.page_size) {
  const auto tokens = static_cast<std::size_t>(sizes.limits.max_query_tokens);
  run_end_.reserve(tokens);
  tiles_.resize(2 * static_cast<std::size_t>(sizes.num_workers));
}

std::size_t PlanBlock::write(const Plan& plan, const Forest::Table& table, std::span<const std::int32_t> row_of,
                             std::byte* block) {
  Writer writer(block);
  PlanHeader& header = *writer.take<PlanHeader>(1);
  header = {};
  header.num_phases = static_cast<std::int32_t>(plan.phases.size());
  header.num_items = static_cast<std::int32_t>(plan.items.size());
  header.num_merges = static_cast<std::int32_t>(plan.merges.size());
  header.num_query_tokens = static_cast<std::int32_t>(plan.query_tokens.size());
  std::int32_t most_rows = 1;
  for (const Merge& merge : plan.merges) most_rows = std::max(most_rows, merge.num_rows);
  const std::int64_t rows = static_cast<std::int64_t>(plan.merges.size()) * plan.num_kv_heads * most_rows;
  const std::int64_t per_warp = ceil_div<std::int64_t>(rows, kernels::merge_warps * std::max(plan.num_workers, 1));
  header.piece_rows = static_cast<std::int32_t>(std::clamp<std::int64_t>(per_warp, 1, most_rows));
  header.pieces = kernels::cuda::Divisor::of(ceil_div(most_rows, header.piece_rows));

  const std::size_t num_ctas = static_cast<std::size_t>(plan.num_workers);
  CtaWork* ctas = nullptr;
  if (scheduled_) {  // of no units where the plan has no phase
    const std::size_t count = std::max<std::size_t>(plan.phases.size(), 1) * num_ctas;
    ctas = writer.take<CtaWork>(count);
    if (plan.phases.empty()) std::fill_n(ctas, count, CtaWork{});
  }
  writer.copy(plan.query_tokens, header.query_tokens);

  index_runs(plan);
  CudaItem* const items = writer.take<CudaItem>(plan.items.size(), &header.items);
  std::size_t phase_of_item = 0;
  for (std::size_t i = 0; i < plan.items.size(); ++i) {
    const WorkItem& item = plan.items[i];
    const Segment& segment = plan.segments[item.segment_begin];
    while (static_cast<int>(i) >= plan.phases[phase_of_item].item_end) ++phase_of_item;
    const bool narrow = static_cast<int>(i) >= plan.phases[phase_of_item].wide_end;
    const std::int32_t num_rows = plan.paired ? std::min(item.num_rows, kernels::paired_rows_each) : item.num_rows;
    items[i] = {.row_begin = item.row_begin,
                .num_rows = static_cast<std::int16_t>(num_rows),
                .masked = static_cast<std::int16_t>(item.masked),
                .table_row = row_of.empty() ? segment.table_row : row_of[segment.table_row],
                .token_begin = segment.token_begin,
                .token_end = segment.token_end,
                .partial_begin = item.partial_begin,
                .first_q = first_q(plan, item.row_begin, item.row_begin + num_rows),
                .heads_at_once = narrow ? heads_at_once(item.num_rows, segment.token_end - segment.token_begin,
                                                        kernels::packed_rows, kernels::packed_tokens, plan.num_kv_heads)
                                        : 1};
  }
  // What the second CTAs of pairs have of the wide items, by the same index.
  std::uint32_t seconds_at = 0;
  CudaItem* const seconds =
      plan.paired ? writer.take<CudaItem>(static_cast<std::size_t>(plan.phases.back().wide_end), &seconds_at) : nullptr;
  for (std::int32_t i = 0; plan.paired && i < plan.phases.back().wide_end; ++i) {
    const WorkItem& item = plan.items[i];
    seconds[i] = items[i];
    seconds[i].num_rows = static_cast<std::int16_t>(item.num_rows - items[i].num_rows);
    if (seconds[i].num_rows == 0) continue;
    seconds[i].row_begin += items[i].num_rows;
    if (item.partial_begin >= 0) seconds[i].partial_begin += items[i].num_rows;
    seconds[i].first_q = first_q(plan, seconds[i].row_begin, item.row_begin + item.num_rows);
  }
  if (ctas != nullptr) {
    for (std::size_t phase = 0; phase < plan.phases.size(); ++phase) {
      CtaWork* const works = ctas + phase * num_ctas;
      std::int32_t *const wide_tiles = tiles_.data(), *const narrow_tiles = wide_tiles + num_ctas;
      write_lane(plan, items, table, page_size_, phase, 0, header.items, works, wide_tiles);
      write_lane(plan, items, table, page_size_, phase, 1, header.items, works, narrow_tiles);
      const std::size_t together = plan.paired ? 2 : 1;
      for (std::size_t w = 0; w < num_ctas; w += together) {
        const std::int32_t wide = wide_tiles[w];
        const std::int32_t narrow = *std::max_element(narrow_tiles + w, narrow_tiles + w + together);
        const int stages = narrow_stages(wide, narrow);
        works[w].wide.paired = plan.paired;
        works[w].wide.num_stages = kernels::ring_stages - stages;
        if (plan.paired) {
          const CtaWork::Lane& first = works[w].wide;
          CtaWork::Lane& second = works[w + 1].wide;
          second = first;
          const auto at = (first.items - header.items) / sizeof(CudaItem) + first.begin[0] / plan.num_kv_heads;
          second.items += seconds_at - header.items;
          if (wide > 0) second.first = seconds[at];
        }
        for (std::size_t cta = w; cta < w + together; ++cta) works[cta].narrow.num_stages = stages;
      }
    }
  }
  writer.copy(plan.phases, header.phases);
  writer.copy(plan.merges, header.merges);
  writer.copy(plan.merge_sources, header.merge_sources);
  header.num_bytes = static_cast<std::uint32_t>(writer.used());
  return writer.used();
}

void PlanBlock::index_runs(const Plan& plan) {
  const std::size_t count = plan.query_tokens.size();
  run_end_.resize(count);
  for (std::size_t t = count; t-- > 0;) {
    const bool goes_on = t + 1 < count && plan.query_tokens[t + 1].q_index == plan.query_tokens[t].q_index + 1;
    run_end_[t] = goes_on ? run_end_[t + 1] : static_cast<std::int32_t>(t + 1);
  }
}

std::int32_t PlanBlock::first_q(const Plan& plan, std::int32_t row_begin, std::int32_t row_end) const {
  const std::int32_t first = row_begin / group_size_, last = (row_end - 1) / group_size_;
  return last < run_end_[first] ? plan.query_tokens[first].q_index : -1;
}

}  // namespace trunkline::exec::cuda
