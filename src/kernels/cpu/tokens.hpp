// The tokens of one work item as a stream of tiles: where the K and V of each token lie, across pages, segments and
// what no row sees. And the rows: where their q lies and which positions they see. No SIMD here.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "kernels/cpu/elements.hpp"
#include "kernels/cpu/kernels.hpp"
#include "kernels/params.hpp"

namespace trunkline::kernels::cpu {

/// Tokens of a tile at most: a multiple of every block the kernels work in.
inline constexpr int max_tile_tokens = 64;

/// Heads of a few-row item that go through a tile of tokens together. With 16 heads of 128 dims a tile and the next
/// take 256 KiB, with f32 512 KiB, a quarter of a level-2 cache.
inline constexpr int narrow_heads_at_once = 16;
/// Room for the state of one of them.
inline constexpr std::size_t max_narrow_item_bytes = 1024;

/// Heads of a many-row item that go through a tile of tokens together, and their rows in all, padded to whole vectors:
/// 8 heads with 128 dims of f32 are 4 KiB of a token, a memory page, and q and out of 1024
/// rows 1 MiB, half of a level-2 cache; 512 rows were up to 10 % slower from 96 rows an item on.
inline constexpr int max_wide_heads = 8, max_wide_rows = 1024;

/// What a padding token's K and V point at: max_head_dim zeros of any element type.
alignas(64) inline constexpr float zero_row[256] = {};

struct Tile {
  int num_tokens = 0;
  const std::byte* k[max_tile_tokens];  // padding points at zero_row
  const std::byte* v[max_tile_tokens];
  std::int32_t position[max_tile_tokens];
};

/// The intervals of positions that a range of rows sees.
struct Visibility {
  static constexpr std::int32_t no_end = std::numeric_limits<std::int32_t>::max();

  std::int32_t num_rows = 0;
  bool masked = false;  // false: every row sees everything, and `begin` and `end` are not set
  std::int32_t begin[max_item_rows];
  std::int32_t end[max_item_rows];

  void read(const AttentionParams& params, const WorkItem& item) {
    num_rows = item.num_rows;
    masked = item.masked != 0 || params.seq_lens != nullptr;
    if (!masked) return;
    for (std::int32_t r = 0; r < num_rows; ++r) {
      const QueryToken& token = params.query_tokens[(item.row_begin + r) / params.group_size];
      begin[r] = token.visible_begin;
      end[r] = token.visible_end;
      if (params.seq_lens != nullptr) end[r] = std::min(end[r], params.seq_lens[token.request]);
    }
  }

  struct Run {
    std::int32_t begin, end;
  };
  /// The first run of positions from `from` on that some row sees; begin = no_end: there is none.
  Run next_run(std::int32_t from) const {
    if (!masked) return {from, no_end};
    Run run{no_end, no_end};
    for (std::int32_t r = 0; r < num_rows; ++r) {
      if (end[r] > std::max(begin[r], from)) run.begin = std::min(run.begin, std::max(begin[r], from));
    }
    if (run.begin == no_end) return run;
    run.end = run.begin;
    for (bool grew = true; grew;) {
      grew = false;
      for (std::int32_t r = 0; r < num_rows; ++r) {
        if (begin[r] <= run.end && end[r] > run.end) {
          run.end = end[r];
          grew = true;
        }
      }
    }
    return run;
  }

  /// Bounds over rows [first, first + count).
  struct Bounds {
    std::int32_t min_begin = no_end, max_begin = 0, min_end = no_end, max_end = 0;

    /// Every row sees every position of [first, last] / no row sees any.
    bool all_see(std::int32_t first, std::int32_t last) const { return first >= max_begin && last < min_end; }
    bool none_sees(std::int32_t first, std::int32_t last) const { return last < min_begin || first >= max_end; }
  };
  Bounds bounds(std::int32_t first, std::int32_t count) const {
    Bounds b;
    if (!masked) return {0, 0, no_end, no_end};
    for (std::int32_t r = first; r < first + count; ++r) {
      b.min_begin = std::min(b.min_begin, begin[r]);
      b.max_begin = std::max(b.max_begin, begin[r]);
      b.min_end = std::min(b.min_end, end[r]);
      b.max_end = std::max(b.max_end, end[r]);
    }
    return b;
  }
};

/// Hands out the visible tokens of an item in order.
class TokenStream {
 public:
  TokenStream(const AttentionParams& params, const WorkItem& item, std::int32_t head, const Visibility& visibility)
      : params_(params),
        visibility_(visibility),
        segment_(params.segments + item.segment_begin),
        segments_end_(segment_ + item.num_segments),
        element_bytes_(size_of(params.kv_element)),
        k_head_(static_cast<const std::byte*>(params.k.data) + head * params.k.head_stride * element_bytes_),
        v_head_(static_cast<const std::byte*>(params.v.data) + head * params.v.head_stride * element_bytes_) {
    if (segment_ != segments_end_) token_ = segment_->token_begin;
  }

  /// Up to `capacity` tokens into the tile, padding up to `capacity`.
  void next(Tile& tile, int capacity) {
    int n = 0;
    while (n < capacity && (token_ < run_end_ || next_run())) {
      const std::int32_t slot = token_ % params_.page_size;
      const int count = std::min({capacity - n, run_end_ - token_, params_.page_size - slot});
      const std::int64_t page = params_.table[segment_->table_row * params_.table_stride + token_ / params_.page_size];
      const std::int64_t k_step = params_.k.token_stride * element_bytes_,
                         v_step = params_.v.token_stride * element_bytes_;
      const std::byte* k = k_head_ + page * params_.k.page_stride * element_bytes_ + slot * k_step;
      const std::byte* v = v_head_ + page * params_.v.page_stride * element_bytes_ + slot * v_step;
      for (int i = 0; i < count; ++i) {
        tile.k[n + i] = k + i * k_step;
        tile.v[n + i] = v + i * v_step;
        tile.position[n + i] = token_ + i;
      }
      n += count;
      token_ += count;
    }
    tile.num_tokens = n;
    for (; n < capacity; ++n) {
      tile.k[n] = tile.v[n] = reinterpret_cast<const std::byte*>(zero_row);
      tile.position[n] = Visibility::no_end;
    }
  }

 private:
  /// Moves [token_, run_end_) to the next tokens of the segments that some row sees.
  bool next_run() {
    for (; segment_ != segments_end_; token_ = ++segment_ != segments_end_ ? segment_->token_begin : 0) {
      const Visibility::Run run = visibility_.next_run(std::max(token_, segment_->token_begin));
      if (run.begin >= segment_->token_end) continue;
      token_ = run.begin;
      run_end_ = std::min(run.end, segment_->token_end);
      return true;
    }
    run_end_ = token_;
    return false;
  }

  const AttentionParams& params_;
  const Visibility& visibility_;
  const Segment* segment_;
  const Segment* segments_end_;
  std::int64_t element_bytes_;
  const std::byte* k_head_;
  const std::byte* v_head_;
  std::int32_t token_ = 0, run_end_ = 0;  // run_end_ <= token_: ask for the next run
};

/// Where row `r` of an item lies in the caller's arrays.
struct RowPlace {
  std::int64_t q_index, query_head;

  RowPlace(const AttentionParams& params, std::int32_t row, std::int32_t head)
      : q_index(params.query_tokens[row / params.group_size].q_index),
        query_head(std::int64_t{head} * params.group_size + row % params.group_size) {}

  std::int64_t offset(const RowsView& view) const {
    return q_index * view.token_stride + query_head * view.head_stride;
  }
};

/// Cuts a thread's scratch memory into arrays on cache lines.
class ScratchCutter {
 public:
  explicit ScratchCutter(Scratch scratch) : at_(static_cast<std::byte*>(scratch.data)) {}

  template <class T>
  T* take(std::size_t count) {
    T* array = reinterpret_cast<T*>(at_);
    at_ += (count * sizeof(T) + 63) / 64 * 64;
    return array;
  }

 private:
  std::byte* at_;
};

}  // namespace trunkline::kernels::cpu
