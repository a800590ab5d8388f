// The producers: one warp per ring that streams the tokens of the CTA's units into stages, without a break between
// units. Page indices are read ahead of their copies, two units or 32 boxes.
#pragma once

#include "kernels/cuda/rows.cuh"
#include "kernels/sm90/layout.cuh"

namespace trunkline::kernels::sm90 {

/// The stages of one lane as its producer sees them.
template <int head_dim>
class StageWriter {
  using Layout = StageLayout<head_dim>;

 public:
  __device__ StageWriter(SharedMemory<head_dim>& shared, StageBarriers& barriers, int first, int size)
      : stages_(shared.stages + first), barriers_(barriers), size_(size) {}
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
  Ring ring_;
};

/// The tokens of a unit, and where their pages are.
struct TokenRun {
  int table_row, begin, end, head;
};

/// A lane of the plan as the tokens of its units. By a whole warp: 32 units are read at once, one per lane, well before
/// their use, so that a list of short units waits for no item. The first one has a copy beside the schedule.
class TokenRuns {
 public:
  __device__ TokenRuns(const CudaParams& params, const CtaWork::Lane& work)
      : params_(params), work_(work), count_(num_units(work)), batch_(read(1)) {}
  /// An empty run after the last.
  __device__ __forceinline__ TokenRun next() {
    const int index = next_++;
    if (index == 0) {
      return {__ldg(&work_.first.table_row), __ldg(&work_.first.token_begin), __ldg(&work_.first.token_end),
              __ldg(&work_.first_head)};
    }
    const int at = (index - 1) % 32;
    if (at == 0) {
      if (index > 1) batch_ = ahead_;
      ahead_ = read(index + 32);
    }
    return {__shfl_sync(~0u, batch_.table_row, at), __shfl_sync(~0u, batch_.begin, at),
            __shfl_sync(~0u, batch_.end, at), __shfl_sync(~0u, batch_.head, at)};
  }

 private:
  /// This lane's of units [first, first + 32).
  __device__ __forceinline__ TokenRun read(int first) const {
    const int index = first + static_cast<int>(threadIdx.x % 32);
    if (index >= count_) return {0, 0, 0, 0};
    const UnitPlace unit(work_, index, params_.attention.num_kv_heads);
    const CudaItem& item = cuda::plan_array<CudaItem>(params_.plan, params_.plan->items)[unit.item];
    return {__ldg(&item.table_row), __ldg(&item.token_begin), __ldg(&item.token_end), unit.head};
  }

  const CudaParams& params_;
  const CtaWork::Lane& work_;
  int count_, next_ = 0;
  TokenRun batch_, ahead_{};
};

/// What one lane knows of one box: the page it is in and its place there, in groups of 8 tokens.
struct Box {
  int page, group;
};

__device__ __forceinline__ Box find_box(const Arguments& args, const TokenRun& run, int box) {
  const AttentionParams& a = args.params.attention;
  const int token = box * args.box_tokens, entry = token / a.page_size;
  if (token >= run.end) return {0, 0};
  return {__ldg(a.table + run.table_row * a.table_stride + entry), (token - entry * a.page_size) / group_tokens};
}

/// By the copy engine: boxes of 8 to 64 tokens, none of which crosses a page. One lane per box and plane.
///   once  nobody else reads these tokens: they should leave L2 first
template <bool once, int head_dim>
__device__ void load_boxes(const Arguments& args, const CUtensorMap* k_map, const CUtensorMap* v_map,
                           const CtaWork::Lane& work, StageWriter<head_dim> stage) {
  using Layout = StageLayout<head_dim>;
  const int lane = threadIdx.x % 32;
  const int box_tokens = args.box_tokens, boxes = tile_tokens / box_tokens;  // boxes of a tile's plane, 1 to 8
  const int box_bytes = box_tokens / group_tokens * Layout::group_bytes;
  const bool is_v = lane >= boxes;  // lanes [0, boxes) copy K, [boxes, 2 * boxes) V
  const int my_box = lane & (boxes - 1);
  const KvPlane& plane = is_v ? args.params.attention.v : args.params.attention.k;
  const int chunks = static_cast<int>(plane.head_stride / 64);  // of 64 elements, from head to head
  const auto first_box = [&](const TokenRun& r) { return r.begin / box_tokens; };
  const auto look_up = [&](const TokenRun& r) { return find_box(args, r, first_box(r) + lane); };

  TokenRuns runs(args.params, work);
  TokenRun run = runs.next(), run1{};
  Box found = look_up(run), found1{};
  bool first_unit = true;
  while (run.end > 0) {
    const int end_box = (run.end + box_tokens - 1) / box_tokens;
    const int chunk = run.head * chunks;
    TokenRun run2{};
    Box found2{};
    for (int window = first_box(run); window < end_box; window += 32) {
      Box ahead{};
      for (int box = window; box < min(end_box, window + 32); box += boxes) {
        const int count = min(boxes, end_box - box);
        const int page = __shfl_sync(~0u, found.page, box - window + my_box);
        const int group = __shfl_sync(~0u, found.group, box - window + my_box);
        const auto load = [&](std::uint8_t* to, const CUtensorMap* map, std::uint64_t* full) {
          if (my_box < count) ptx::load_box<once>(to + my_box * box_bytes, map, full, 0, 0, chunk, group, page);
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
        // Lookups for later, behind the first copies of what is at hand.
        if (box == window && window + 32 < end_box) ahead = find_box(args, run, window + 32 + lane);
        if (box == first_box(run)) {
          if (first_unit) run1 = runs.next(), found1 = look_up(run1);
          first_unit = false;
          run2 = runs.next(), found2 = look_up(run2);
        }
      }
      found = ahead;
    }
    run = run1, run1 = run2;
    found = found1, found1 = found2;
  }
}

/// 16 bytes of a row to their swizzled place, piece by piece where the source is not aligned.
__device__ __forceinline__ void gather_chunk(std::uint32_t to, const std::uint16_t* from, int alignment) {
  if (alignment == 16) {
    ptx::copy_16(to, from, true);
    return;
  }
  std::uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    words[i] = __ldg(from + 2 * i) | static_cast<std::uint32_t>(__ldg(from + 2 * i + 1)) << 16;
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]),
               "r"(words[3])
               : "memory");
}

/// Without the copy engine, for pages and strides that its boxes do not fit: every lane finds the rows of two tokens,
/// and all lanes copy them, a row's chunks side by side. A stage is published once the copies of the next one have been
/// issued, so that two are in flight.
template <int head_dim>
__device__ void gather_tokens(const Arguments& args, const CtaWork::Lane& work, StageWriter<head_dim> stage) {
  using Layout = StageLayout<head_dim>;
  const AttentionParams& a = args.params.attention;
  const int lane = threadIdx.x % 32;
  constexpr int chunks = head_dim / 8, rows_at_once = 32 / chunks;
  const int chunk = lane % chunks, sub = lane / chunks;
  TokenRuns runs(args.params, work);
  StageWriter<head_dim> filled = stage;  // the oldest stage not yet published
  bool pending = false;
  auto publish = [&]() {
    ptx::fence_async();
    __syncwarp();
    if (lane == 0) {
      ptx::barrier_arrive(filled.k_full());
      ptx::barrier_arrive(filled.v_full());
    }
    filled.advance();
  };
  for (TokenRun run = runs.next(); run.end > 0; run = runs.next()) {
    for (int token = run.begin; token < run.end; token += tile_tokens) {
      std::int64_t page[2];
      int slot[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int t = min(token + i * 32 + lane, run.end - 1), entry = t / a.page_size;
        page[i] = __ldg(a.table + run.table_row * a.table_stride + entry);
        slot[i] = t - entry * a.page_size;
      }
      // A consumer may hold its stage until it sees the next one: nothing is kept back while this waits.
      if (pending && !__all_sync(~0u, stage.empty())) {
        cuda::wait_copies<0>();
        publish();
        pending = false;
      }
      stage.wait_k_empty();
      stage.wait_v_empty();
#pragma unroll
      for (int plane = 0; plane < 2; ++plane) {
        const KvPlane& from = plane == 0 ? a.k : a.v;
        const std::uint32_t to = ptx::shared_address(plane == 0 ? stage.k() : stage.v());
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const std::int64_t mine =
              page[i] * from.page_stride + slot[i] * from.token_stride + run.head * from.head_stride;
#pragma unroll 4
          for (int r = 0; r < 32; r += rows_at_once) {
            const std::int64_t offset = __shfl_sync(~0u, mine, r + sub);
            const int row = i * 32 + r + sub;
            if (token + row >= run.end) continue;
            gather_chunk(to + row / 8 * Layout::group_bytes + chunk / 8 * Layout::half_bytes + row % 8 * 128 +
                             (chunk % 8 ^ row % 8) * 16,
                         static_cast<const std::uint16_t*>(from.data) + offset + chunk * 8, args.gather_bytes);
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
  }
  cuda::wait_copies<0>();
  if (pending) publish();
}

}  // namespace trunkline::kernels::sm90
