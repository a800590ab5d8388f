// The entry points: which instance, and the copy engine's view of the cache.
#include "kernels/sm90/attention.hpp"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <numeric>

#include "kernels/sm90/instances.hpp"

namespace trunkline::kernels::sm90 {
namespace {

/// The largest box, in tokens, that pages consist of: 0 when the copy engine cannot copy this cache.
int box_tokens_of(const AttentionParams& a) {
  const auto fits = [](const KvPlane& plane) {
    constexpr int sixteen_bytes = 8;  // elements
    constexpr std::int64_t longest_stride = std::int64_t{1} << 39;
    return reinterpret_cast<std::uintptr_t>(plane.data) % 16 == 0 && plane.page_stride % sixteen_bytes == 0 &&
           plane.token_stride % sixteen_bytes == 0 && plane.head_stride % 64 == 0 && plane.page_stride >= 0 &&
           plane.token_stride >= 0 && plane.head_stride >= 0 && plane.page_stride < longest_stride &&
           plane.token_stride < longest_stride / 8 && plane.head_stride < longest_stride;
  };
  if (!fits(a.k) || !fits(a.v)) return 0;
  for (const int box : {64, 32, 16, 8}) {
    if (a.page_size % box == 0) return box;
  }
  return 0;
}

using Encode = decltype(&cuTensorMapEncodeTiled);

Encode encoder() {
  static const Encode encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(function) : nullptr;
  }();
  return encode;
}

cudaError_t encode(Element element, int rank, const void* data, const cuuint64_t* sizes, const cuuint64_t* strides,
                   const cuuint32_t* box, CUtensorMap& map) {
  constexpr cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  const auto type = element == Element::f16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  if (encoder() == nullptr) return cudaErrorNotSupported;
  const CUresult result = encoder()(&map, type, static_cast<cuuint32_t>(rank), const_cast<void*>(data), sizes, strides,
                                    box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                    CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

/// K or V as [page][8 tokens of a page][64 elements of a head][token of 8][element]: a box is whole swizzled tiles.
cudaError_t map_plane(const AttentionParams& a, const KvPlane& plane, std::int64_t num_pages, int box_tokens,
                      CUtensorMap& map) {
  const auto size = [](std::int64_t elements) { return static_cast<cuuint64_t>(elements); };
  const auto bytes = [](std::int64_t elements) { return static_cast<cuuint64_t>(elements) * 2; };
  const std::int64_t chunks = (a.num_kv_heads - 1) * plane.head_stride / 64 + a.head_dim / 64;
  const cuuint64_t sizes[5] = {64, 8, size(chunks), size(a.page_size / 8), size(num_pages)};
  const cuuint64_t strides[4] = {bytes(plane.token_stride), bytes(64), bytes(8 * plane.token_stride),
                                 bytes(plane.page_stride)};
  const cuuint32_t box[5] = {64, 8, static_cast<cuuint32_t>(a.head_dim / 64), static_cast<cuuint32_t>(box_tokens / 8),
                             1};
  return encode(a.kv_element, 5, plane.data, sizes, strides, box, map);
}

/// q as [token][64 elements of a head][query head][element]: a box is rows of a swizzled tile, one head each.
cudaError_t map_queries(const AttentionParams& a, int box_rows, CUtensorMap& map) {
  const auto bytes = [](std::int64_t elements) { return static_cast<cuuint64_t>(elements) * 2; };
  constexpr cuuint64_t any_token = cuuint64_t{1} << 31;
  const cuuint64_t sizes[4] = {64, static_cast<cuuint64_t>(a.num_kv_heads) * a.group_size,
                               static_cast<cuuint64_t>(a.head_dim) / 64, any_token};
  const cuuint64_t strides[3] = {bytes(a.q.head_stride), bytes(64), bytes(a.q.token_stride)};
  const cuuint32_t box[4] = {64, static_cast<cuuint32_t>(box_rows), 1, 1};
  return encode(a.q_element, 4, a.q.data, sizes, strides, box, map);
}

bool aligned_to_16_bytes(const void* data, std::initializer_list<std::int64_t> strides) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 &&
         std::all_of(strides.begin(), strides.end(), [](std::int64_t stride) { return stride % 8 == 0; });
}

/// Calls `use` with the instance of these elements and sizes.
template <class Use>
int with_instance(int head_dim, Element element, bool general, Use use) {
  const auto with_element = [&]<class T>(T*) {
    if (head_dim == 64) return general ? use(Instance<T, 64, true>{}) : use(Instance<T, 64, false>{});
    return general ? use(Instance<T, 128, true>{}) : use(Instance<T, 128, false>{});
  };
  if (element == Element::f16) return with_element(static_cast<__half*>(nullptr));
  return with_element(static_cast<__nv_bfloat16*>(nullptr));
}

}  // namespace

bool supports(int head_dim, Element q, Element kv) {
  return (head_dim == 64 || head_dim == 128) && q == kv && q != Element::f32;
}

int prepare(int head_dim, Element q) {
  for (const bool general : {false, true}) {
    const int error = with_instance(head_dim, q, general, [](auto instance) { return instance.prepare(); });
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

int launch(const CudaParams& params, std::int64_t num_pages, int num_ctas, void* stream) {
  const AttentionParams& a = params.attention;
  constexpr float log2_e = 1.44269504f;
  // A dimension of one may have any stride, which the copy engine need not take.
  const bool rows_aligned = a.q.token_stride >= 0 && a.q.head_stride >= 0 &&
                            aligned_to_16_bytes(a.q.data, {a.q.token_stride, a.q.head_stride}) &&
                            aligned_to_16_bytes(a.out.data, {a.out.token_stride, a.out.head_stride});
  const int box_tokens = num_pages > 0 && rows_aligned ? box_tokens_of(a) : 0;
  const bool general = box_tokens == 0;
  const int q_box_rows = std::gcd(a.group_size, row_granule);
  Maps maps{};
  if (!general) {
    if (const cudaError_t error = map_queries(a, q_box_rows, maps.q); error != cudaSuccess) return error;
    for (auto [plane, map] : {std::pair{&a.k, &maps.k}, std::pair{&a.v, &maps.v}}) {
      if (const cudaError_t error = map_plane(a, *plane, num_pages, box_tokens, *map); error != cudaSuccess)
        return error;
    }
  }
  const auto aligned = [](const KvPlane& plane) {
    return aligned_to_16_bytes(plane.data, {plane.page_stride, plane.token_stride, plane.head_stride});
  };
  const Arguments args{
      .params = params,
      .group = cuda::Divisor::of(a.group_size),
      .heads = cuda::Divisor::of(a.num_kv_heads),
      .page = cuda::Divisor::of(a.page_size),
      .scale_log2 = a.scale * log2_e,
      .q_sign = std::signbit(a.scale) ? 0x80008000u : 0u,
      .q_box_rows = q_box_rows,
      .box_shift = general ? 0 : static_cast<int>(std::bit_width(static_cast<unsigned>(box_tokens))) - 1,
      .gather_bytes = aligned(a.k) && aligned(a.v) ? 16 : 2,
  };
  return with_instance(a.head_dim, a.kv_element, general,
                       [&](auto instance) { return instance.launch(args, maps, num_ctas, stream); });
}

}  // namespace trunkline::kernels::sm90
