// The few-row kernel (1 to 8 rows), bound by the bytes of K and V. Lanes run along head_dim. Included once per target.
//
// Tokens come in tiles. For a tile: all dot products, several tokens and rows at a time so that every K vector is
// loaded once; their lanes are summed by one network per `sums_per_block` dots instead of one by one; the weights,
// elementwise; then out += weight * V, every V vector loaded once. While a tile is computed the next one is prefetched,
// K during the scores and V during the output, because pages lie anywhere and no hardware prefetcher can follow them.
//
// The KV heads of an item go through each tile of tokens one after the other. Where the heads of a token lie side by
// side (NHD), one head reads only a part of every memory page; all heads together read each page, and look up its
// address, once.
#if defined(TRUNKLINE_KERNELS_CPU_NARROW_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef TRUNKLINE_KERNELS_CPU_NARROW_INL
#undef TRUNKLINE_KERNELS_CPU_NARROW_INL
#else
#define TRUNKLINE_KERNELS_CPU_NARROW_INL
#endif

#include "kernels/cpu/rows-inl.hpp"
#include "kernels/cpu/simd-inl.hpp"
#include "kernels/cpu/softmax.hpp"
#include "kernels/cpu/tokens.hpp"

HWY_BEFORE_NAMESPACE();
namespace trunkline::kernels::cpu::HWY_NAMESPACE {

/// One item for one KV head; `Rows` is the number of rows rounded up to 1, 2, 4 or 8 (rows behind the item's are
/// zeros).
template <class Element, int Rows>
class NarrowItem {
  // Dots of a block: as many as fill registers as accumulators. Dot (row, token) of a block is number
  // row * block_tokens + token; scores, weights and all per-row state of a tile are kept in this pattern.
  static constexpr int sums_per_block = many_registers ? 16 : 8;
  static constexpr int block_tokens = sums_per_block / Rows;
  static constexpr int block_vectors = sums_per_block / lanes;

  // A row of K, V, q or out is taken in pairs of vectors, in the order of `load_pair`.
  static constexpr int pair = 2 * lanes;
  // Pairs of out that are accumulated at once, and for how many rows.
  static constexpr int group_pairs = HWY_MAX(1, HWY_MIN(block_tokens, 8) / 2);
  static constexpr int group_rows = HWY_MIN(Rows, sums_per_block / (2 * group_pairs));

 public:
  /// The visibility is that of the item's rows, the same for every head.
  NarrowItem(const AttentionParams& params, const WorkItem& item, std::int32_t head, const Visibility& visibility,
             ScratchCutter& cutter)
      : params_(params),
        item_(item),
        head_(head),
        scale_(params.scale),
        row_bytes_(params.head_dim * static_cast<int>(sizeof(Element))),
        // Rows shorter than a pair are copied into padded ones first.
        dim_(HWY_MAX(params.head_dim, pair)),
        num_pairs_((dim_ + pair - 1) / pair),
        stride_(num_pairs_ * pair),
        visibility_(visibility),
        bounds_(visibility.bounds(0, item.num_rows)),
        stream_(params, item, head, visibility) {
    tile_ = cutter.take<Tile>(1);
    next_ = cutter.take<Tile>(1);
    scores_ = cutter.take<float>(max_tile_tokens * Rows);
    q_ = cutter.take<float>(Rows * stride_);
    out_ = cutter.take<float>(Rows * stride_);
    padded_ = cutter.take<Element>(2 * max_tile_tokens * pair);
  }

  void start() {
    read_rows();
    stream_.next(*tile_, tile_tokens());
  }

  /// One tile; false: there was none left.
  bool step() {
    if (tile_->num_tokens == 0) return false;
    stream_.next(*next_, tile_tokens());
    if (params_.head_dim < pair) pad_rows();
    scores();
    const int n = tile_->num_tokens;
    if (n % block_tokens != 0 || !bounds_.all_see(tile_->position[0], tile_->position[n - 1])) mask();
    weights();
    output();
    std::swap(tile_, next_);
    return true;
  }

  void finish() {
    for (int r = 0; r < item_.num_rows; ++r) {
      float sum = 0;
      for (int t = 0; t < block_tokens; ++t) sum += sum_[r * block_tokens + t];
      const Vec divisor = hn::Set(F32(), sum > 0 ? sum : 1.0f);  // nothing seen: out is 0 already
      float* out = out_ + r * stride_;
      for (int i = 0; i < stride_; i += lanes) store(hn::Div(load(out + i), divisor), out + i);
      for (int j = 0; j < num_pairs_; ++j) restore<Element>(out + j * pair);
      std::memmove(out + pair_begin(num_pairs_ - 1), out + stride_ - pair, pair * sizeof(float));  // undo the overlap
      write_row(params_, item_, r, head_, out);
      write_lse(params_, item_, r, head_, log_sum_exp(scale_, max_[r * block_tokens], sum));
    }
  }

 private:
  /// Some 4 KiB of K, and as much of V, of each head: K is prefetched a tile ahead of its use and V as long as the
  /// scores take. Longer tiles were slower with 8 heads (by a third at 16 KiB), shorter ones cost more per tile than
  /// they save.
  int tile_tokens() const { return HWY_MAX(16, HWY_MIN(4096 / row_bytes_ / 16 * 16, max_tile_tokens)); }

  int num_blocks() const { return (tile_->num_tokens + block_tokens - 1) / block_tokens; }

  /// Where pair j of a row starts. The last one ends with the row and overlaps its neighbour where head_dim is no
  /// multiple of a pair: q has zeros there, and out the same twice.
  int pair_begin(int j) const { return HWY_MIN(j * pair, dim_ - pair); }

  void read_rows() {
    for (int i = 0; i < Rows * stride_; i += lanes) {
      store(hn::Zero(F32()), q_ + i);
      store(hn::Zero(F32()), out_ + i);
    }
    for (int r = 0; r < item_.num_rows; ++r) {
      float* q = q_ + r * stride_;
      read_query(params_, item_.row_begin + r, head_, scale_.q_factor, q);
      const int tail = stride_ - pair, overlap = tail - pair_begin(num_pairs_ - 1);
      std::memmove(q + tail + overlap, q + tail, (pair - overlap) * sizeof(float));
      std::memset(q + tail, 0, overlap * sizeof(float));
      for (int j = 0; j < num_pairs_; ++j) arrange<Element>(q + j * pair);
    }
    for (int i = 0; i < sums_per_block; ++i) max_[i] = minus_infinity, sum_[i] = 0.0f;
  }

  /// Rows shorter than a pair get zeros behind.
  void pad_rows() {
    std::memset(static_cast<void*>(padded_), 0, 2 * max_tile_tokens * pair * sizeof(Element));
    Element* to = padded_;
    const auto copy = [&](const std::byte*& row) {
      std::memcpy(static_cast<void*>(to), row, row_bytes_);
      row = reinterpret_cast<const std::byte*>(to);
      to += pair;
    };
    for (int t = 0; t < num_blocks() * block_tokens; ++t) copy(tile_->k[t]), copy(tile_->v[t]);
  }

  /// Prefetches the cache lines of a row that a pair from element `begin` on touches.
  static HWY_INLINE void prefetch_pair(const std::byte* row, int begin) {
    constexpr int bytes = pair * static_cast<int>(sizeof(Element));
    const std::byte* at = row + begin * static_cast<int>(sizeof(Element));
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch(at + i, 0, 2);
  }

  void scores() {
    const int num_pairs = num_pairs_, stride = stride_, last_begin = dim_ - pair;
    for (int b = 0; b < num_blocks(); ++b) {
      const std::byte* const* k = tile_->k + b * block_tokens;
      const std::byte* const* ahead = tile_->v + b * block_tokens;
      Vec dots[sums_per_block];
      for (int i = 0; i < sums_per_block; ++i) dots[i] = hn::Zero(F32());
      for (int j = 0; j < num_pairs; ++j) {
        const int begin = HWY_MIN(j * pair, last_begin);
        const float* q = q_ + j * pair;
        for (int t = 0; t < block_tokens; ++t) {
          Vec first, second;
          load_pair(reinterpret_cast<const Element*>(k[t]) + begin, first, second);
          prefetch_pair(ahead[t], begin);
          for (int r = 0; r < Rows; ++r) {
            Vec& dot = dots[r * block_tokens + t];
            dot = hn::MulAdd(load(q + r * stride), first, dot);
            dot = hn::MulAdd(load(q + r * stride + lanes), second, dot);
          }
        }
      }
      for (int i = 0; i < block_vectors; ++i) {
        Vec group[lanes];
        for (int l = 0; l < lanes; ++l) group[l] = dots[i * lanes + l];
        store(sums(group), scores_ + b * sums_per_block + i * lanes);
      }
    }
  }

  /// Scores of what a row does not see become -inf.
  void mask() {
    const Visibility& visible = visibility_;
    for (int t = 0; t < num_blocks() * block_tokens; ++t) {
      const std::int32_t position = tile_->position[t];
      float* block = scores_ + t / block_tokens * sums_per_block + t % block_tokens;
      for (int r = 0; r < Rows; ++r) {
        const bool seen = t < tile_->num_tokens && (!visible.masked || r >= item_.num_rows ||
                                                    (position >= visible.begin[r] && position < visible.end[r]));
        if (!seen) block[r * block_tokens] = minus_infinity;
      }
    }
  }

  /// Scores become weights relative to the new maxima; `correction_` is what older weights are to be multiplied by.
  void weights() {
    const F32 f32;
    const int count = num_blocks() * sums_per_block;
    alignas(64) float tile_max[sums_per_block];
    for (int i = 0; i < sums_per_block; i += lanes) {
      Vec greatest = load(max_ + i);
      for (int b = i; b < count; b += sums_per_block) greatest = hn::Max(greatest, load(scores_ + b));
      store(greatest, tile_max + i);
    }
    for (int r = 0; r < Rows; ++r) {
      float* row = tile_max + r * block_tokens;
      float greatest = row[0];
      for (int t = 1; t < block_tokens; ++t) greatest = HWY_MAX(greatest, row[t]);
      for (int t = 0; t < block_tokens; ++t) row[t] = greatest;
    }
    for (int i = 0; i < sums_per_block; i += lanes) {
      const Vec greatest = load(tile_max + i);
      // As long as a row has seen nothing its maximum is -inf, and -inf - -inf is NaN.
      const Vec base = hn::IfThenElse(hn::Gt(greatest, hn::Set(f32, minus_infinity)), greatest, hn::Zero(f32));
      const Vec correction = weight_of(hn::Sub(load(max_ + i), base), scale_);
      Vec sum = hn::Zero(f32);
      for (int b = i; b < count; b += sums_per_block) {
        const Vec weight = weight_of(hn::Sub(load(scores_ + b), base), scale_);
        store(weight, scores_ + b);
        sum = hn::Add(sum, weight);
      }
      store(hn::MulAdd(load(sum_ + i), correction, sum), sum_ + i);
      store(correction, correction_ + i);
      store(greatest, max_ + i);
    }
  }

  void output() {
    for (int row = 0; row < Rows; row += group_rows) {
      int j = 0;
      for (; j + group_pairs <= num_pairs_; j += group_pairs) output_group<group_pairs>(row, j);
      if constexpr (group_pairs > 2) {
        if (j + 2 <= num_pairs_) output_group<2>(row, j), j += 2;
      }
      if constexpr (group_pairs > 1) {
        if (j < num_pairs_) output_group<1>(row, j);
      }
    }
  }

  /// Pairs [first, first + Pairs) of out, for group_rows rows from `first_row` on.
  template <int Pairs>
  void output_group(int first_row, int first) {
    Vec acc[group_rows][2 * Pairs];
    for (int r = 0; r < group_rows; ++r) {
      for (int j = 0; j < 2 * Pairs; ++j) acc[r][j] = hn::Zero(F32());
    }
    int begin[Pairs];
    for (int j = 0; j < Pairs; ++j) begin[j] = pair_begin(first + j);
    for (int b = 0; b < num_blocks(); ++b) {
      for (int t = 0; t < block_tokens; ++t) {
        const auto* v = reinterpret_cast<const Element*>(tile_->v[b * block_tokens + t]);
        const std::byte* ahead = next_->k[b * block_tokens + t];
        const float* weight = scores_ + b * sums_per_block + first_row * block_tokens + t;
        Vec vt[2 * Pairs];
        for (int j = 0; j < Pairs; ++j) {
          load_pair(v + begin[j], vt[2 * j], vt[2 * j + 1]);
          prefetch_pair(ahead, begin[j]);
        }
        for (int r = 0; r < group_rows; ++r) {
          const Vec w = hn::Set(F32(), weight[r * block_tokens]);
          for (int j = 0; j < 2 * Pairs; ++j) acc[r][j] = hn::MulAdd(w, vt[j], acc[r][j]);
        }
      }
    }
    for (int r = 0; r < group_rows; ++r) {
      const Vec correction = hn::Set(F32(), correction_[(first_row + r) * block_tokens]);
      float* out = out_ + (first_row + r) * stride_ + first * pair;
      for (int j = 0; j < 2 * Pairs; ++j, out += lanes) store(hn::MulAdd(load(out), correction, acc[r][j]), out);
    }
  }

  const AttentionParams& params_;
  const WorkItem& item_;
  const std::int32_t head_;
  const Scale scale_;
  const int row_bytes_;
  const int dim_, num_pairs_, stride_;

  const Visibility& visibility_;
  const Visibility::Bounds bounds_;
  TokenStream stream_;
  Tile *tile_, *next_;
  float* scores_;    // [tokens / block_tokens][Rows][block_tokens]
  float* q_;         // [Rows][stride_]
  float* out_;       // [Rows][stride_], relative to max_
  Element* padded_;  // [max_tile_tokens][K, V][pair]
  alignas(64) float max_[sums_per_block];
  alignas(64) float sum_[sums_per_block];
  alignas(64) float correction_[sums_per_block];
};

template <class Element, int Rows>
void attend_heads(const AttentionParams& params, const WorkItem& item, std::int32_t head_begin, std::int32_t head_end,
                  Scratch scratch) {
  using Item = NarrowItem<Element, Rows>;
  static_assert(sizeof(Item) <= max_narrow_item_bytes && std::is_trivially_destructible_v<Item>);
  ScratchCutter cutter(scratch);
  Visibility& visibility = *cutter.take<Visibility>(1);
  visibility.read(params, item);
  Item* heads[narrow_heads_at_once];
  const int count = head_end - head_begin;
  for (int i = 0; i < count; ++i) {
    heads[i] = new (cutter.take<Item>(1)) Item(params, item, head_begin + i, visibility, cutter);
    heads[i]->start();
  }
  for (bool more = true; more;) {
    for (int i = 0; i < count; ++i) more = heads[i]->step();  // every head has the same tokens
  }
  for (int i = 0; i < count; ++i) heads[i]->finish();
}

template <class Element>
void attend_narrow_as(const AttentionParams& params, const WorkItem& item, std::int32_t head_begin,
                      std::int32_t head_end, Scratch scratch) {
  if (item.num_rows == 1) return attend_heads<Element, 1>(params, item, head_begin, head_end, scratch);
  if (item.num_rows == 2) return attend_heads<Element, 2>(params, item, head_begin, head_end, scratch);
  if (item.num_rows <= 4) return attend_heads<Element, 4>(params, item, head_begin, head_end, scratch);
  attend_heads<Element, 8>(params, item, head_begin, head_end, scratch);
}

inline void attend_narrow(const AttentionParams& params, const WorkItem& item, std::int32_t head_begin,
                          std::int32_t head_end, Scratch scratch) {
  visit_element(params.kv_element, [&](const auto* type) HWY_ATTR {
    using Element = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
    for (std::int32_t head = head_begin; head < head_end; head += narrow_heads_at_once) {
      attend_narrow_as<Element>(params, item, head, HWY_MIN(head + narrow_heads_at_once, head_end), scratch);
    }
  });
}

}  // namespace trunkline::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
