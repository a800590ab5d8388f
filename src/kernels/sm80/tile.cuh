// One tile of tokens: its copy into shared memory and one warp's attention over it.
//
// A tile in shared memory is rows of D elements in chunks of 16 bytes; chunk c of row r is stored as chunk c ^ (r % 8),
// so that the eight rows of an ldmatrix lie in different banks.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/instructions.cuh"
#include "kernels/sm80/mma.cuh"

namespace trunkline::kernels::sm80 {

inline constexpr int num_warps = 4;
inline constexpr int num_threads = 32 * num_warps;
inline constexpr int fragment_rows = 16;  // of mma's A
inline constexpr int tile_tokens = 64;    // a fragment's k for each warp when all share the tile

template <int D>
__device__ inline std::uint32_t chunk_offset(int row, int chunk) {
  return static_cast<std::uint32_t>(row * D * 2 + ((chunk ^ (row & 7)) << 4));
}

/// The address of chunk `chunk` (0 or 1) of a row of the tile at `tile`; `at_pair` moves it to chunk + 2 * pair. All
/// of a lane's ldmatrix addresses come from one such register.
template <int D>
__device__ inline std::uint32_t chunk_address(std::uint32_t tile, int row, int chunk) {
  return tile + chunk_offset<D>(row, chunk);
}
__device__ inline std::uint32_t at_pair(std::uint32_t address, int pair) {
  return (address ^ (pair % 4 << 5)) + pair / 4 * 128;  // tiles and rows begin on 128 bytes
}

/// Copies Rows rows of head_dim elements (a multiple of 8) to `destination`: the first `valid` ones, zeros for the
/// others and past head_dim. With `aligned` (all rows on 16 bytes) by cp.async, the caller's to commit and wait for;
/// else element by element.
template <class T, int D, int Rows>
__device__ inline void copy_rows(std::uint32_t destination, const T* const* rows, int valid, int head_dim,
                                 bool aligned) {
  constexpr int chunks = D / 8, rows_at_once = num_threads / chunks;
  const int chunk = static_cast<int>(threadIdx.x) % chunks, first_row = static_cast<int>(threadIdx.x) / chunks;
  if (chunk * 8 >= head_dim) valid = 0;
  if (aligned) {
#pragma unroll 4  // the kernel's code must stay small beside the instruction cache
    for (int row = first_row, i = 0; i < Rows / rows_at_once; ++i, row += rows_at_once) {
      cuda::copy_async_16(destination + chunk_offset<D>(row, chunk), rows[row] + chunk * 8, row < valid);
    }
    return;
  }
#pragma unroll 1
  for (int row = first_row; row < Rows; row += rows_at_once) {
    const auto* bits = reinterpret_cast<const std::uint16_t*>(rows[row]) + chunk * 8;
#pragma unroll 1
    for (int pair = 0; pair < 4; ++pair) {
      std::uint32_t word = 0;
      if (row < valid) word = cuda::load_unaligned_pair(bits + 2 * pair);
      cuda::store_shared(destination + chunk_offset<D>(row, chunk) + 4 * pair, word);
    }
  }
}

/// Changes the sign of `num_rows` rows that all threads of the CTA see.
template <int D>
__device__ inline void negate_rows(std::uint32_t rows, int num_rows) {
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < num_rows * D / 2; i += num_threads) {
    cuda::store_shared(rows + 4 * i, cuda::load_shared(rows + 4 * i) ^ 0x80008000u);
  }
}

/// A warp's rows of q as mma's A, Fragments times 16 rows that lie `fragment_stride` rows apart. In registers, unless
/// there is no room for them.
template <int D, int Fragments>
struct Queries {
  static constexpr bool in_registers = Fragments * D <= 128;

  /// `rows` in shared memory, chunk_offset's layout; they stay there if not in_registers.
  __device__ Queries(std::uint32_t rows, int fragment_stride)
      : address_(chunk_address<D>(rows, threadIdx.x % 16, threadIdx.x % 32 / 16)), stride_(fragment_stride * D * 2) {
    if constexpr (in_registers) {
#pragma unroll
      for (int f = 0; f < Fragments; ++f) {
#pragma unroll
        for (int k = 0; k < D / 16; ++k) load(f, k, words_[f][k]);
      }
    }
  }
  __device__ void get(int fragment, int k, std::uint32_t (&a)[4]) const {
    if constexpr (in_registers) {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = words_[fragment][k][i];
    } else {
      load(fragment, k, a);
    }
  }

 private:
  __device__ void load(int fragment, int k, std::uint32_t (&a)[4]) const {
    load_matrices(a, at_pair(address_, k) + fragment * stride_);
  }

  std::uint32_t address_;
  int stride_;
  std::uint32_t words_[in_registers ? Fragments : 1][in_registers ? D / 16 : 1][4];
};

/// Which positions a thread's two rows of a fragment (lane / 4 and 8 more) see: [begin[i], end[i]).
struct Visible {
  std::int32_t begin[2], end[2];
};

/// The online softmax of a fragment's 16 rows: out = sum of 2^(x - most) v, sum = that of the weights over the thread's
/// own columns of x. Scores x are in base 2.
template <int D>
struct Softmax {
  float out[D / 8][4] = {};
  float most[2] = {-INFINITY, -INFINITY};
  float sum[2] = {};
};

/// What to subtract from scores whose largest is `most`: anything finite will do where there is none.
__device__ inline float base_of(float most) { return most == -INFINITY ? 0.0f : most; }

/// One step of the softmax: raw scores q.k of 16 rows and Tokens tokens become weights, and the state's sums follow.
template <int D, int Tokens>
__device__ inline void weigh(float (&scores)[Tokens / 8][4], float scale, bool masked, std::int32_t position,
                             const Visible& visible, Softmax<D>& state) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (masked) {
#pragma unroll
    for (int n = 0; n < Tokens / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const std::int32_t token = position + 8 * n + lane % 4 * 2 + i % 2;
        if (token < visible.begin[i / 2] || token >= visible.end[i / 2]) scores[n][i] = -INFINITY;
      }
    }
  }
  float most[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int n = 0; n < Tokens / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) most[i / 2] = fmaxf(most[i / 2], scores[n][i]);
  }
  float base[2], shrink[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    most[h] = fmaxf(most[h], __shfl_xor_sync(0xFFFFFFFFu, most[h], 1));
    most[h] = fmaxf(most[h], __shfl_xor_sync(0xFFFFFFFFu, most[h], 2));
    most[h] = most[h] == -INFINITY ? state.most[h] : fmaxf(state.most[h], most[h] * scale);
    base[h] = base_of(most[h]);
    shrink[h] = cuda::exp2(state.most[h] - base[h]);
    state.most[h] = most[h];
    state.sum[h] *= shrink[h];
  }
  if (__any_sync(0xFFFFFFFFu, shrink[0] != 1.0f || shrink[1] != 1.0f)) {  // rare after the first tiles
#pragma unroll
    for (auto& words : state.out) {
      words[0] *= shrink[0], words[1] *= shrink[0];
      words[2] *= shrink[1], words[3] *= shrink[1];
    }
  }
#pragma unroll
  for (int n = 0; n < Tokens / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scores[n][i] = cuda::exp2(fmaf(scores[n][i], scale, -base[i / 2]));
      state.sum[i / 2] += scores[n][i];
    }
  }
}

/// One warp: its rows over Tokens tokens, whose K and V rows begin at `keys` and `values` (multiples of 8 rows into the
/// tile) and whose first has position `position`. scale: of q.k, to base 2, not negative. masked: some row does not see
/// all of them.
template <class T, int D, int Fragments, int Tokens>
__device__ inline void attend(const Queries<D, Fragments>& queries, std::uint32_t keys, std::uint32_t values,
                              float scale, bool masked, std::int32_t position, const Visible (&visible)[Fragments],
                              Softmax<D> (&state)[Fragments]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::uint32_t key = chunk_address<D>(keys, lane / 16 * 8 + lane % 8, lane / 8 % 2);
  const std::uint32_t value = chunk_address<D>(values, lane % 16, lane / 16);

  float scores[Fragments][Tokens / 8][4] = {};
#pragma unroll
  for (int k = 0; k < D / 16; ++k) {
    std::uint32_t a[Fragments][4];
#pragma unroll
    for (int f = 0; f < Fragments; ++f) queries.get(f, k, a[f]);
#pragma unroll
    for (int n = 0; n < Tokens / 16; ++n) {
      std::uint32_t b[4];  // tokens 0..7 and 8..15, each with its two halves of k
      load_matrices(b, at_pair(key, k) + 16 * n * D * 2);
#pragma unroll
      for (int f = 0; f < Fragments; ++f) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          // Summed outside the matrix unit, to nearest: an lse must not drift with head_dim.
          float products[4] = {};
          multiply_add<T>(products, a[f], b[2 * half], b[2 * half + 1]);
#pragma unroll
          for (int i = 0; i < 4; ++i) scores[f][2 * n + half][i] += products[i];
        }
      }
    }
  }

#pragma unroll
  for (int f = 0; f < Fragments; ++f) weigh<D, Tokens>(scores[f], scale, masked, position, visible[f], state[f]);

#pragma unroll
  for (int n = 0; n < Tokens / 16; ++n) {
    std::uint32_t weights[Fragments][4];
#pragma unroll
    for (int f = 0; f < Fragments; ++f) {
      const auto &low = scores[f][2 * n], &high = scores[f][2 * n + 1];
      weights[f][0] = cuda::pack<T>(low[0], low[1]), weights[f][1] = cuda::pack<T>(low[2], low[3]);
      weights[f][2] = cuda::pack<T>(high[0], high[1]), weights[f][3] = cuda::pack<T>(high[2], high[3]);
    }
#pragma unroll
    for (int d = 0; d < D / 16; ++d) {
      std::uint32_t b[4];  // columns 0..7 and 8..15, each with its two halves of tokens
      load_matrices_transposed(b, at_pair(value, d) + 16 * n * D * 2);
#pragma unroll
      for (int f = 0; f < Fragments; ++f) {
        multiply_add<T>(state[f].out[2 * d], weights[f], b[0], b[1]);
        multiply_add<T>(state[f].out[2 * d + 1], weights[f], b[2], b[3]);
      }
    }
  }
}

}  // namespace trunkline::kernels::sm80
