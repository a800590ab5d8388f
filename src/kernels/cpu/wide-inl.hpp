// The many-row kernel (9 to 256 rows), bound by arithmetic. Lanes run along rows, so that maxima, exponentials and sums
// are elementwise and nothing of K is transposed. Included once per target.
//
// Rows are cut into strips of one to three vectors. q is packed once as q^T [strip][head_dim][strip rows]. For a tile
// of tokens and a strip:
//     s^T [tokens][rows]   = K [tokens][head_dim] * q^T
//     w^T                  = exp2((s^T - max) * factor), in place
//     o^T [head_dim][rows] = o^T * correction + V^T * w^T
// Both products are one register block: `block` values broadcast from K or V, times the strip's vectors. K and V must
// be f32 for that: 16-bit ones are promoted once per tile and used for every strip.
//
// Several KV heads go through each tile of tokens one after the other, and tiles are the shorter the more heads they
// are. Where the heads of a token lie side by side (NHD) that reads memory in long runs, which hardware prefetchers
// follow while a head is computed; prefetch instructions were slower, they wait for page walks.
//
// AVX-512's bfloat16 dot product is left out: on the machine at hand (2026-11-22) one core does 115 GFLOP/s with it and
// 235 with plain f32 FMA.
#if defined(TRUNKLINE_KERNELS_CPU_WIDE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef TRUNKLINE_KERNELS_CPU_WIDE_INL
#undef TRUNKLINE_KERNELS_CPU_WIDE_INL
#else
#define TRUNKLINE_KERNELS_CPU_WIDE_INL
#endif

#include "kernels/cpu/rows-inl.hpp"
#include "kernels/cpu/simd-inl.hpp"
#include "kernels/cpu/softmax.hpp"
#include "kernels/cpu/tokens.hpp"

HWY_BEFORE_NAMESPACE();
namespace trunkline::kernels::cpu::HWY_NAMESPACE {

// The register block: block x strip vectors of accumulators, the strip's operands and a broadcast.
// 32 registers: 8 x 3 + 3 + 1; 16 registers: 4 x 2 + 2 + 1 (6 x 2 would fit, but 4 divides every usual head_dim).
inline constexpr int wide_block = many_registers ? 8 : 4;
inline constexpr int max_strip_vectors = many_registers ? 3 : 2;

/// scores [wide_block][rows] = K rows * q^T [head_dim][rows].
template <int Vectors>
HWY_INLINE void score_block(const float* q, const float* const* k, int head_dim, float* scores) {
  const float* row[wide_block];
  for (int m = 0; m < wide_block; ++m) row[m] = k[m];
  Vec acc[wide_block][Vectors];
  for (int m = 0; m < wide_block; ++m) {
    for (int n = 0; n < Vectors; ++n) acc[m][n] = hn::Zero(F32());
  }
  for (int i = 0; i < head_dim; ++i, q += Vectors * lanes) {
    Vec operand[Vectors];
    for (int n = 0; n < Vectors; ++n) operand[n] = load(q + n * lanes);
    for (int m = 0; m < wide_block; ++m) {
      const Vec value = hn::Set(F32(), row[m][i]);
      for (int n = 0; n < Vectors; ++n) acc[m][n] = hn::MulAdd(value, operand[n], acc[m][n]);
    }
  }
  for (int m = 0; m < wide_block; ++m) {
    for (int n = 0; n < Vectors; ++n) store(acc[m][n], scores + (m * Vectors + n) * lanes);
  }
}

/// out [wide_block][rows] = out * correction + (dims from `first` on of the V rows)^T * weights.
template <int Vectors>
HWY_INLINE void output_block(const float* weights, const float* const* v, int num_tokens, int first,
                             const float* correction, float* out) {
  Vec acc[wide_block][Vectors];
  for (int m = 0; m < wide_block; ++m) {
    for (int n = 0; n < Vectors; ++n) acc[m][n] = hn::Zero(F32());
  }
  for (int t = 0; t < num_tokens; ++t, weights += Vectors * lanes) {
    const float* row = v[t] + first;
    Vec operand[Vectors];
    for (int n = 0; n < Vectors; ++n) operand[n] = load(weights + n * lanes);
    for (int m = 0; m < wide_block; ++m) {
      const Vec value = hn::Set(F32(), row[m]);
      for (int n = 0; n < Vectors; ++n) acc[m][n] = hn::MulAdd(value, operand[n], acc[m][n]);
    }
  }
  for (int n = 0; n < Vectors; ++n) {
    const Vec factor = load(correction + n * lanes);
    for (int m = 0; m < wide_block; ++m) {
      float* o = out + (m * Vectors + n) * lanes;
      store(hn::MulAdd(load(o), factor, acc[m][n]), o);
    }
  }
}

/// KV heads that go through a tile together, if as many are given. Tiles depend on this number and not on how many are
/// given, so that results do not.
inline int wide_heads(const AttentionParams& params, const WorkItem& item) {
  const int padded_rows = (item.num_rows + lanes - 1) / lanes * lanes;
  return HWY_MIN(HWY_MIN(max_wide_heads, max_wide_rows / padded_rows), params.num_kv_heads);
}

class WideItem {
 public:
  WideItem(const AttentionParams& params, const WorkItem& item, std::int32_t head_begin, std::int32_t head_end,
           Scratch scratch)
      : params_(params),
        item_(item),
        head_begin_(head_begin),
        num_heads_(head_end - head_begin),
        scale_(params.scale),
        head_dim_(params.head_dim),
        padded_dim_((head_dim_ + 15) / 16 * 16),
        num_vectors_((item.num_rows + lanes - 1) / lanes),
        tile_tokens_(max_tile_tokens / wide_heads(params, item) / wide_block * wide_block),
        k_head_bytes_(params.k.head_stride * size_of(params.kv_element)),
        v_head_bytes_(params.v.head_stride * size_of(params.kv_element)) {
    static_assert(16 % wide_block == 0 && 16 % lanes == 0 && max_tile_tokens % wide_block == 0);
    const std::size_t padded_rows = static_cast<std::size_t>(num_vectors_) * lanes;
    ScratchCutter cutter(scratch);
    visibility_ = cutter.take<Visibility>(1);
    tile_ = cutter.take<Tile>(1);
    strips_ = cutter.take<Strip>(max_item_rows);
    k_ = cutter.take<float>(static_cast<std::size_t>(tile_tokens_) * padded_dim_);
    v_ = cutter.take<float>(static_cast<std::size_t>(tile_tokens_) * padded_dim_);
    scores_ = cutter.take<float>(tile_tokens_ * max_strip_vectors * lanes);
    rows_ = cutter.take<float>(static_cast<std::size_t>(lanes) * padded_dim_);
    for (int h = 0; h < num_heads_; ++h) {
      heads_[h].max = cutter.take<float>(padded_rows);
      heads_[h].sum = cutter.take<float>(padded_rows);
      heads_[h].q = cutter.take<float>(padded_rows * padded_dim_);
      heads_[h].out = cutter.take<float>(padded_rows * padded_dim_);
    }
  }

  void run() {
    visibility_->read(params_, item_);
    cut_strips();
    for (int h = 0; h < num_heads_; ++h) start(h);
    TokenStream stream(params_, item_, head_begin_, *visibility_);
    for (stream.next(*tile_, tile_tokens_); tile_->num_tokens > 0; stream.next(*tile_, tile_tokens_)) {
      for (int h = 0; h < num_heads_; ++h) {
        visit_element(params_.kv_element, [&](const auto* type) HWY_ATTR { prepare_rows(type, h); });
        for (int i = 0; i < num_strips_; ++i) compute_strip(strips_[i], heads_[h]);
      }
    }
    for (int h = 0; h < num_heads_; ++h) finish(h);
  }

 private:
  struct Strip {
    int first_row, num_vectors;
    Visibility::Bounds bounds;
  };

  /// What belongs to one KV head.
  struct Head {
    float *max, *sum;  // [rows]
    float* q;          // [strip][padded_dim_][strip rows]
    float* out;        // the same, relative to max
  };

  /// As wide as registers allow, which makes the most of every broadcast, but none of a single vector where two of two
  /// do.
  void cut_strips() {
    num_strips_ = 0;
    for (int v = 0; v < num_vectors_;) {
      const int left = num_vectors_ - v;
      const int take = left == max_strip_vectors + 1 ? 2 : HWY_MIN(left, max_strip_vectors);
      const int first = v * lanes;
      strips_[num_strips_++] = {first, take, visibility_->bounds(first, HWY_MIN(take * lanes, item_.num_rows - first))};
      v += take;
    }
  }

  void start(int h) {
    const Head& head = heads_[h];
    for (int i = 0; i < num_strips_; ++i) {
      for (int n = 0; n < strips_[i].num_vectors; ++n) pack_queries(strips_[i], n, h);
    }
    for (int i = 0; i < num_vectors_ * lanes * padded_dim_; i += lanes) store(hn::Zero(F32()), head.out + i);
    for (int i = 0; i < num_vectors_ * lanes; ++i) head.max[i] = minus_infinity, head.sum[i] = 0.0f;
  }

  /// Vector n of a strip: `lanes` rows of q, transposed. Rows behind the item's are zeros.
  void pack_queries(const Strip& strip, int n, int h) {
    for (int l = 0; l < lanes; ++l) {
      const int r = strip.first_row + n * lanes + l;
      float* row = rows_ + l * padded_dim_;
      if (r < item_.num_rows) {
        read_query(params_, item_.row_begin + r, head_begin_ + h, scale_.q_factor, row);
      } else {
        for (int i = 0; i < padded_dim_; i += lanes) store(hn::Zero(F32()), row + i);
      }
    }
    float* to = heads_[h].q + strip.first_row * padded_dim_ + n * lanes;
    const int step = strip.num_vectors * lanes;
    for (int i = 0; i < head_dim_; i += lanes) {
      Vec square[lanes];
      for (int l = 0; l < lanes; ++l) square[l] = load(rows_ + l * padded_dim_ + i);
      transpose(square);
      for (int l = 0; l < lanes; ++l) store(square[l], to + (i + l) * step);
    }
  }

  /// Points k_rows_ and v_rows_ at the tile's K and V of head h, in f32. With many heads at once f32 ones stay where
  /// they are, if whole blocks of dims may be read there. With few, tiles are long, and their rows, a large power of
  /// two apart in NHD, would put each other out of the cache; nor would anything fetch them before the products need
  /// them.
  template <class Element>
  void prepare_rows(const Element*, int h) {
    const bool in_place = std::is_same_v<Element, float> && num_heads_ == max_wide_heads && head_dim_ % wide_block == 0;
    const int padded = (tile_->num_tokens + wide_block - 1) / wide_block * wide_block;
    for (int t = 0; t < padded; ++t) {
      const int head = t < tile_->num_tokens ? h : 0;  // padding has no heads
      const auto* k = reinterpret_cast<const Element*>(tile_->k[t] + head * k_head_bytes_);
      const auto* v = reinterpret_cast<const Element*>(tile_->v[t] + head * v_head_bytes_);
      if (in_place) {
        k_rows_[t] = reinterpret_cast<const float*>(k);
        v_rows_[t] = reinterpret_cast<const float*>(v);
      } else {
        load_row(k, head_dim_, k_ + t * padded_dim_);
        load_row(v, head_dim_, v_ + t * padded_dim_);
        k_rows_[t] = k_ + t * padded_dim_;
        v_rows_[t] = v_ + t * padded_dim_;
      }
    }
  }

  void compute_strip(const Strip& strip, const Head& head) {
    if (strip.bounds.none_sees(tile_->position[0], tile_->position[tile_->num_tokens - 1])) return;
    switch (strip.num_vectors) {
      case 1:
        return strip_tile<1>(strip, head);
      case 2:
        return strip_tile<2>(strip, head);
      default:
        return strip_tile<max_strip_vectors>(strip, head);
    }
  }

  template <int Vectors>
  void strip_tile(const Strip& strip, const Head& head) {
    constexpr int width = Vectors * lanes;
    const int n = tile_->num_tokens;
    const float* q = head.q + strip.first_row * padded_dim_;
    for (int t = 0; t < n; t += wide_block) {
      score_block<Vectors>(q, k_rows_ + t, head_dim_, scores_ + t * width);
    }
    if (!strip.bounds.all_see(tile_->position[0], tile_->position[n - 1])) mask<Vectors>(strip);
    weights<Vectors>(strip, head);
    float* out = head.out + strip.first_row * padded_dim_;
    for (int i = 0; i < head_dim_; i += wide_block) {
      output_block<Vectors>(scores_, v_rows_, n, i, correction_, out + i * width);
    }
  }

  /// Scores of what a row does not see become -inf.
  template <int Vectors>
  void mask(const Strip& strip) {
    const I32 i32;
    for (int n = 0; n < Vectors; ++n) {
      alignas(64) std::int32_t begin[lanes], end[lanes];
      for (int l = 0; l < lanes; ++l) {
        const int r = strip.first_row + n * lanes + l;
        begin[l] = r < item_.num_rows ? visibility_->begin[r] : 0;
        end[l] = r < item_.num_rows ? visibility_->end[r] : Visibility::no_end;
      }
      const auto begins = hn::Load(i32, begin), ends = hn::Load(i32, end);
      for (int t = 0; t < tile_->num_tokens; ++t) {
        const auto position = hn::Set(i32, tile_->position[t]);
        const auto hidden = hn::Or(hn::VecFromMask(i32, hn::Gt(begins, position)),
                                   hn::Not(hn::VecFromMask(i32, hn::Gt(ends, position))));
        float* s = scores_ + (t * Vectors + n) * lanes;
        const auto mask = hn::RebindMask(F32(), hn::MaskFromVec(hidden));
        store(hn::IfThenElse(mask, hn::Set(F32(), minus_infinity), load(s)), s);
      }
    }
  }

  template <int Vectors>
  void weights(const Strip& strip, const Head& head) {
    const F32 f32;
    const int num_tokens = tile_->num_tokens;
    for (int n = 0; n < Vectors; ++n) {
      float* scores = scores_ + n * lanes;
      float* row_max = head.max + strip.first_row + n * lanes;
      float* row_sum = head.sum + strip.first_row + n * lanes;
      const Vec old = load(row_max);
      Vec greatest = old;
      for (int t = 0; t < num_tokens; ++t) greatest = hn::Max(greatest, load(scores + t * Vectors * lanes));
      // As long as a row has seen nothing its maximum is -inf, and -inf - -inf is NaN.
      const Vec base = hn::IfThenElse(hn::Gt(greatest, hn::Set(f32, minus_infinity)), greatest, hn::Zero(f32));
      const Vec correction = weight_of(hn::Sub(old, base), scale_);
      Vec sums[4] = {hn::Zero(f32), hn::Zero(f32), hn::Zero(f32), hn::Zero(f32)};
      const auto weigh = [&](int t, Vec& sum) HWY_ATTR {
        float* s = scores + t * Vectors * lanes;
        const Vec weight = weight_of(hn::Sub(load(s), base), scale_);
        store(weight, s);
        sum = hn::Add(sum, weight);
      };
      int t = 0;
      for (; t + 4 <= num_tokens; t += 4) {
        for (int i = 0; i < 4; ++i) weigh(t + i, sums[i]);
      }
      for (; t < num_tokens; ++t) weigh(t, sums[t % 4]);
      const Vec sum = hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
      store(hn::MulAdd(load(row_sum), correction, sum), row_sum);
      store(correction, correction_ + n * lanes);
      store(greatest, row_max);
    }
  }

  void finish(int h) {
    for (int i = 0; i < num_strips_; ++i) {
      for (int n = 0; n < strips_[i].num_vectors; ++n) unpack_rows(strips_[i], n, h);
    }
  }

  /// Vector n of a strip: o^T over the sums, transposed back and written.
  void unpack_rows(const Strip& strip, int n, int h) {
    const F32 f32;
    const Head& head = heads_[h];
    const int first = strip.first_row + n * lanes, step = strip.num_vectors * lanes;
    const Vec sum = load(head.sum + first);
    const Vec divisor = hn::IfThenElse(hn::Gt(sum, hn::Zero(f32)), sum, hn::Set(f32, 1.0f));  // nothing seen: out is 0
    const float* from = head.out + strip.first_row * padded_dim_ + n * lanes;
    for (int i = 0; i < head_dim_; i += lanes) {
      Vec square[lanes];
      for (int l = 0; l < lanes; ++l) square[l] = hn::Div(load(from + (i + l) * step), divisor);
      transpose(square);
      for (int l = 0; l < lanes; ++l) store(square[l], rows_ + l * padded_dim_ + i);
    }
    for (int l = 0; l < HWY_MIN(lanes, item_.num_rows - first); ++l) {
      const int r = first + l;
      write_row(params_, item_, r, head_begin_ + h, rows_ + l * padded_dim_);
      write_lse(params_, item_, r, head_begin_ + h, log_sum_exp(scale_, head.max[r], head.sum[r]));
    }
  }

  const AttentionParams& params_;
  const WorkItem& item_;
  const std::int32_t head_begin_;
  const int num_heads_;
  const Scale scale_;
  const int head_dim_, padded_dim_, num_vectors_, tile_tokens_;
  const std::int64_t k_head_bytes_, v_head_bytes_;
  int num_strips_ = 0;

  Visibility* visibility_;
  Tile* tile_;  // of head_begin_
  Strip* strips_;
  float *k_, *v_;  // [tile_tokens_][padded_dim_]
  float* scores_;  // [tile_tokens_][strip rows]; also the weights
  float* rows_;    // [lanes][padded_dim_]
  Head heads_[max_wide_heads];
  const float* k_rows_[max_tile_tokens];
  const float* v_rows_[max_tile_tokens];
  alignas(64) float correction_[max_strip_vectors * lanes];
};

inline void attend_wide(const AttentionParams& params, const WorkItem& item, std::int32_t head_begin,
                        std::int32_t head_end, Scratch scratch) {
  const int at_once = wide_heads(params, item);
  for (std::int32_t head = head_begin; head < head_end; head += at_once) {
    WideItem(params, item, head, HWY_MIN(head + at_once, head_end), scratch).run();
  }
}

}  // namespace trunkline::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
