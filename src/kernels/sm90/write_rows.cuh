// Where the result of a unit's row goes: to its partial, or straight to out and lse.
#pragma once

#include <cstdint>

#include "kernels/sm90/ptx.cuh"

namespace trunkline::kernels::sm90 {

template <class T, int head_dim>
class RowWriter {
 public:
  /// partial_begin < 0: rows are complete.
  __device__ RowWriter(const AttentionParams& params, int head, int partial_begin)
      : params_(params), head_(head), partial_begin_(partial_begin) {}

  class Row {
   public:
    __device__ __forceinline__ void write(int d, float value) const {
      if (partial_ != nullptr) {
        partial_[d] = value;
      } else {
        out_[d] = from_float(value);
      }
    }
    /// Elements d and d + 1; d is even.
    __device__ __forceinline__ void write(int d, float low, float high) const {
      if (partial_ != nullptr) {
        *reinterpret_cast<float2*>(partial_ + d) = make_float2(low, high);
      } else if (reinterpret_cast<std::uintptr_t>(out_) % 4 == 0) {
        *reinterpret_cast<std::uint32_t*>(out_ + d) = ptx::pack<T>(low, high);
      } else {
        out_[d] = from_float(low);
        out_[d + 1] = from_float(high);
      }
    }
    /// The log-sum-exp of scores whose exponentials base 2, less the reference, sum to `sum`.
    __device__ __forceinline__ void write_lse(float reference, float sum) const {
      constexpr float log_2 = 0.693147181f;
      if (lse_ != nullptr) *lse_ = sum > 0 ? (reference + __log2f(sum)) * log_2 : sum == 0 ? -INFINITY : sum;
    }

   private:
    friend class RowWriter;
    static __device__ __forceinline__ T from_float(float value) {
      if constexpr (sizeof(T) == 2 && std::is_same_v<T, __half>)
        return __float2half_rn(value);
      else
        return __float2bfloat16_rn(value);
    }
    float* partial_;
    T* out_;
    float* lse_;
  };

  /// Row `row` of the unit, which is row row_begin + row of the plan, of query token q_index.
  __device__ __forceinline__ Row row(int row, int row_begin, int q_index) const {
    Row at;
    if (partial_begin_ >= 0) {
      const std::int64_t index = static_cast<std::int64_t>(partial_begin_ + row) * params_.num_kv_heads + head_;
      at.partial_ = params_.partial_out + index * head_dim;
      at.lse_ = params_.partial_lse + index;
      at.out_ = nullptr;
    } else {
      const int head = head_ * params_.group_size + (row_begin + row) % params_.group_size;
      at.partial_ = nullptr;
      at.out_ = static_cast<T*>(params_.out.data) + q_index * params_.out.token_stride + head * params_.out.head_stride;
      at.lse_ = params_.lse == nullptr
                    ? nullptr
                    : params_.lse + q_index * params_.lse_token_stride + head * params_.lse_head_stride;
    }
    return at;
  }

 private:
  const AttentionParams& params_;
  int head_, partial_begin_;
};

}  // namespace trunkline::kernels::sm90
