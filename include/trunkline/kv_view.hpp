// The KV cache as kernels see it: pages of tokens, K and V apart, any strides.
#pragma once

#include <cstdint>

#include "trunkline/tensor.hpp"

namespace trunkline {

enum class KvLayout : std::uint8_t {
  nhd,  // [num_pages, page_size, num_kv_heads, head_dim]
  hnd,  // [num_pages, num_kv_heads, page_size, head_dim]
};

/// Where the KV of token slot `s` of page `p` and head `h` lives: k + p * page_stride + s * token_stride +
/// h * head_stride, `head_dim` contiguous elements; the same for v. Strides are in elements. Never owns.
struct KvView {
  struct Plane {
    void* data = nullptr;
    std::int64_t page_stride = 0;
    std::int64_t token_stride = 0;
    std::int64_t head_stride = 0;
  };

  Plane k, v;
  DType dtype = DType::float32;
  Device device{};
  std::int64_t num_pages = 0;
  int page_size = 0;  // tokens, 1 to 1024
  int num_kv_heads = 0;
  int head_dim = 0;

  /// One tensor for both: NHD [num_pages, 2, page_size, num_kv_heads, head_dim] or
  /// HND [num_pages, 2, num_kv_heads, page_size, head_dim], contiguous.
  static KvView interleaved(void* data, DType dtype, KvLayout layout, std::int64_t num_pages, int page_size,
                            int num_kv_heads, int head_dim, Device device = {});

  /// K and V apart, each contiguous in the given layout.
  static KvView separate(void* k, void* v, DType dtype, KvLayout layout, std::int64_t num_pages, int page_size,
                         int num_kv_heads, int head_dim, Device device = {});

  /// Throws invalid_argument unless pointers are set, sizes positive, page_size within 1..1024 and strides do not
  /// let two tokens, heads or pages overlap.
  void validate() const;
};

}  // namespace trunkline
