// The producers: one warp per ring that streams the tokens of the CTA's units into stages, without a break between
// units. Page indices are read ahead of their copies, a unit or 32 boxes; the first 16 lie beside the schedule.
#pragma once

#include <cstddef>

#include "kernels/cuda/elements.cuh"
#include "kernels/sm90/layout.cuh"
#include "kernels/sm90/units.cuh"

namespace trunkline::kernels::sm90 {

/// The stages of one lane as its producer sees them.
template <int head_dim>
class StageWriter {
  using Layout = StageLayout<head_dim>;

 public:
  /// `paired`: a stage is written for both CTAs of a pair, by both.
  __device__ StageWriter(SharedMemory<head_dim>& shared, bool wide, int size, bool paired)
      : stages_(shared.stages + (wide ? num_stages - size : 0)),
        barriers_(wide ? shared.barriers.wide : shared.barriers.narrow),
        size_(size),
        paired_(paired) {}
  __device__ __forceinline__ bool paired() const { return paired_; }
  __device__ __forceinline__ std::uint8_t* k() const { return stages_[ring_.stage]; }
  __device__ __forceinline__ std::uint8_t* v() const { return k() + Layout::plane_bytes; }
  __device__ __forceinline__ std::uint64_t* k_full() const { return &barriers_.k_full[ring_.stage]; }
  __device__ __forceinline__ std::uint64_t* v_full() const { return &barriers_.v_full[ring_.stage]; }
  __device__ __forceinline__ void wait_k_empty() const {
    ptx::barrier_wait(&barriers_.k_empty[ring_.stage], ring_.parity ^ 1);
  }
  __device__ __forceinline__ void wait_v_empty() const {
    ptx::barrier_wait(&barriers_.v_empty[ring_.stage], ring_.parity ^ 1);
  }
  /// The neighbour's consumers tell this CTA of its stages, too, so it may not end, nor set up barriers, before.
  __device__ __forceinline__ void wait_all_empty() {
#pragma unroll 1
    for (int i = 0; i < size_; ++i) {
      wait_k_empty();
      wait_v_empty();
      advance();
    }
  }
  /// Whether the consumers have left both planes.
  __device__ __forceinline__ bool empty() const {
    return ptx::barrier_passed(&barriers_.k_empty[ring_.stage], ring_.parity ^ 1) &&
           ptx::barrier_passed(&barriers_.v_empty[ring_.stage], ring_.parity ^ 1);
  }
  __device__ __forceinline__ void advance() { ring_.advance(size_); }

 private:
  std::uint8_t (*stages_)[Layout::bytes];
  StageBarriers& barriers_;
  int size_;
  bool paired_;
  Ring ring_;
};

/// What one lane knows of one box: the page it is in, its place there in groups of 8 tokens, and its KV head after the
/// unit's first.
struct Box {
  int page;
  int place;  // group | head << 8: a page has up to 128 groups
  __device__ __forceinline__ static int place_of(int group, int head) { return group | head << 8; }
};

/// Box `box` of a unit: of each head in turn.
struct BoxOfHead {
  int token, head;
  __device__ __forceinline__ BoxOfHead(const Unit& unit, int box, int box_shift)
      : token(unit.origin(box_shift) + (box << box_shift)), head(0) {
    if (unit.num_heads > 1) {
      head = small_quotient(box, unit.boxes(box_shift));
      token -= head * unit.period(box_shift);
    }
  }
};

__device__ __forceinline__ Box find_box(const Arguments& args, const Unit& unit, int box) {
  const AttentionParams& a = args.params.attention;
  const BoxOfHead at(unit, box, args.box_shift);
  const int entry = args.page.quotient(at.token);
  if (at.token >= unit.token_end || at.head >= unit.num_heads) return {0, 0};
  return {__ldg(a.table + unit.table_row * a.table_stride + entry),
          Box::place_of((at.token - entry * a.page_size) / group_tokens, at.head)};
}

/// By the copy engine: boxes of 8 to 64 tokens, none of which crosses a page. One lane per box and plane. Boxes
/// are looked up 32 at a time, behind the first copies of the 32 before; those of the next unit behind the last.
template <int head_dim, class Ready, class Start>
__device__ __forceinline__ void load_boxes(const Arguments& args, const CUtensorMap* k_map, const CUtensorMap* v_map,
                                           const CtaWork::Lane& work, std::uint64_t policy, Ready ready, Start start) {
  using Layout = StageLayout<head_dim>;
  const int lane = threadIdx.x % 32;
  const int box_shift = args.box_shift, boxes = tile_tokens >> box_shift;  // boxes of a tile's plane, 1 to 8
  const int box_bytes = Layout::group_bytes / group_tokens << box_shift;
  const bool is_v = lane >= boxes;  // lanes [0, boxes) copy K, [boxes, 2 * boxes) V
  const int my_box = lane & (boxes - 1);
  const KvPlane& plane = is_v ? args.params.attention.v : args.params.attention.k;
  const int chunks = static_cast<int>(plane.head_stride / 64);  // of 64 elements, from head to head

  // Pages of the first unit lie beside the schedule: all that the first boxes wait for comes with one read.
  int known = CtaWork::num_first_pages;  // boxes looked up: a window
  const int first_page = __ldg(work.first_pages + lane % CtaWork::num_first_pages);
  Units<true> units(args, work);
  ready();
  Unit unit = units.next();
  const BoxOfHead first(unit, lane, box_shift);
  const int entry = args.page.quotient(first.token);
  Box found{__shfl_sync(~0u, first_page, entry - args.page.quotient(unit.token_begin)),
            Box::place_of((first.token - entry * args.params.attention.page_size) / group_tokens, first.head)};
  StageWriter<head_dim> stage = start(units);
  // Of a pair of CTAs each brings every other box to both.
  const bool mine = !stage.paired() || ((my_box ^ (is_v ? 1 : 0)) & 1) == static_cast<int>(ptx::cluster_rank());
  const auto ctas = static_cast<std::uint16_t>(stage.paired() ? 3 : 1 << ptx::cluster_rank());
  while (unit.token_end > 0) {
    const int end_box = unit.num_heads * unit.boxes(box_shift);
    Unit next = unit;  // whose boxes are looked up
    for (int window = 0, after; window < end_box; window = after) {
      after = window + known;
      known = 32;
      Box ahead{};
      for (int box = window; box < min(end_box, after); box += boxes) {
        const int count = min(boxes, end_box - box);
        const int page = __shfl_sync(~0u, found.page, box - window + my_box);
        const int place = __shfl_sync(~0u, found.place, box - window + my_box);
        const int group = place & 0xFF, chunk = (unit.head + (place >> 8)) * chunks;
        const auto load = [&](std::uint8_t* to, const CUtensorMap* map, std::uint64_t* full) {
          if (my_box >= count || !mine) return;
          ptx::load_box_to(ctas, to + my_box * box_bytes, map, full, policy, 0, 0, chunk, group, page);
        };
        stage.wait_k_empty();
        if (lane == 0) ptx::barrier_expect(stage.k_full(), count * box_bytes);
        __syncwarp();
        if (!is_v) load(stage.k(), k_map, stage.k_full());
        stage.wait_v_empty();
        if (lane == 0) ptx::barrier_expect(stage.v_full(), count * box_bytes);
        __syncwarp();
        if (is_v && lane < 2 * boxes) load(stage.v(), v_map, stage.v_full());
        stage.advance();
        if (box == window) {  // Lookups for later, behind the first copies of what is at hand.
          if (after >= end_box) next = units.next();
          ahead = find_box(args, next, lane + (after < end_box ? after : 0));
        }
      }
      found = ahead;
    }
    unit = next;
  }
  if (stage.paired()) stage.wait_all_empty();
}

/// 16 bytes of a row that is not aligned to them.
__device__ __forceinline__ void gather_unaligned(std::uint32_t to, const void* row, bool valid) {
  const auto* const from = static_cast<const std::uint16_t*>(row);
  std::uint32_t words[4] = {0, 0, 0, 0};
  if (valid) {
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = cuda::load_unaligned_pair(from + 2 * i);
  }
  ptx::store_16(to, words);
}

/// The tiles of a lane of the plan, with the places of two tokens per lane, read one tile ahead.
class TokenPlaces {
 public:
  struct Tile {
    Unit unit;             // an empty one: there is none
    int token;             // its first
    int page[2], slot[2];  // of tokens token + lane and token + 32 + lane; the unit's last one beyond its end
  };
  __device__ TokenPlaces(const Arguments& args, const Units<false>& units)
      : args_(args), units_(units), ahead_(find(units_.next(), 0, true)) {}
  __device__ __forceinline__ Tile next() {
    const Tile tile = ahead_;
    if (tile.unit.token_end == 0) return tile;
    const bool same = tile.token + tile_tokens < tile.unit.token_end;
    ahead_ = find(same ? tile.unit : units_.next(), tile.token + tile_tokens, !same);
    return tile;
  }

 private:
  __device__ __forceinline__ Tile find(const Unit& unit, int token, bool first) const {
    const AttentionParams& a = args_.params.attention;
    Tile tile{unit, first ? unit.token_begin : token, {0, 0}, {0, 0}};
    if (unit.token_end == 0) return tile;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int t = min(tile.token + i * 32 + static_cast<int>(threadIdx.x % 32), unit.token_end - 1);
      const int entry = args_.page.quotient(t);
      tile.page[i] = __ldg(a.table + unit.table_row * a.table_stride + entry);
      tile.slot[i] = t - entry * a.page_size;
    }
    return tile;
  }

  const Arguments& args_;
  Units<false> units_;
  Tile ahead_;
};

/// Without the copy engine, for pages and strides that its boxes do not fit: every lane knows the places of two tokens,
/// and all lanes copy them, a row's chunks side by side; zeros beyond the unit's end. A stage is published once the
/// copies of the next one have been issued, so that two are in flight.
template <int head_dim, class Ready, class Start>
__device__ __forceinline__ void gather_tokens(const Arguments& args, const CtaWork::Lane& work, Ready ready,
                                              Start start) {
  using Layout = StageLayout<head_dim>;
  const AttentionParams& a = args.params.attention;
  const int lane = threadIdx.x % 32;
  constexpr int chunks = head_dim / 8, rows_at_once = 32 / chunks;
  const int chunk = lane % chunks, sub = lane / chunks;
  const bool aligned = args.gather_bytes == 16;
  // Of this lane's chunk in row `sub` of a group of 8; the row's other bits are xored and added as constants.
  const std::uint32_t in_group = chunk / 8 * Layout::half_bytes + sub * 128, swizzled = (chunk % 8 ^ sub) * 16;
  const Units<false> units(args, work);
  ready();
  TokenPlaces places(args, units);
  StageWriter<head_dim> stage = start(units);
  StageWriter<head_dim> filled = stage;  // the oldest stage not yet published
  bool pending = false;
  const auto publish = [&] {
    ptx::fence_async();
    __syncwarp();
    if (lane == 0) {
      ptx::barrier_arrive(filled.k_full());
      ptx::barrier_arrive(filled.v_full());
    }
    filled.advance();
  };
  for (auto tile = places.next(); tile.unit.token_end > 0; tile = places.next()) {
    // A consumer may hold its stage until it sees the next one: nothing is kept back while this waits.
    if (pending && !__all_sync(~0u, stage.empty())) {
      cuda::wait_copies<0>();
      publish();
      pending = false;
    }
    stage.wait_k_empty();
    stage.wait_v_empty();
    const int count = tile.unit.token_end - tile.token;  // of tokens that are the unit's
#pragma unroll 1
    for (int plane = 0; plane < 2; ++plane) {
      const KvPlane& from = plane == 0 ? a.k : a.v;
      const std::uint32_t to = ptx::shared_address(plane == 0 ? stage.k() : stage.v()) + in_group;
      const auto* const data =
          static_cast<const std::uint16_t*>(from.data) + tile.unit.head * from.head_stride + chunk * 8;
      const std::int64_t low = tile.page[0] * from.page_stride + tile.slot[0] * from.token_stride;
      const std::int64_t high = tile.page[1] * from.page_stride + tile.slot[1] * from.token_stride;
      const auto copy_row = [&](int row, auto copy) {  // and the rows at once after it
        const std::int64_t offset = __shfl_sync(~0u, row < 32 ? low : high, (row + sub) % 32);
        copy(to + row / 8 * Layout::group_bytes + row % 8 * 128 + (swizzled ^ row % 8 * 16), data + offset,
             row + sub < count);
      };
#pragma unroll 1
      for (int group = 0; group < tile_tokens; group += group_tokens) {
        if (aligned) {
#pragma unroll
          for (int row = 0; row < group_tokens; row += rows_at_once) copy_row(group + row, ptx::copy_16);
        } else {
#pragma unroll
          for (int row = 0; row < group_tokens; row += rows_at_once) copy_row(group + row, gather_unaligned);
        }
      }
    }
    cuda::commit_copies();
    if (pending) {
      cuda::wait_copies<1>();
      publish();
    }
    pending = true;
    stage.advance();
  }
  cuda::wait_copies<0>();
  if (pending) publish();
}

}  // namespace trunkline::kernels::sm90
