// Small kernels of the benchmark: random data, poison, gathering, and what surrounds a timed run. All are asynchronous
// on `stream` and return the launch's status.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace trunkline::tools::cuda {

/// The number of values that random data is drawn from; a power of two.
inline constexpr int random_table_size = 4096;

/// Fills `count` 16-bit elements with entries of `table` (device memory, random_table_size), the same for the same
/// seed. `data` is 16-byte aligned.
cudaError_t fill_random(std::uint16_t* data, std::size_t count, const std::uint16_t* table, std::uint64_t seed,
                        cudaStream_t stream);

/// KV pages of 16-bit elements, K and V of a page side by side: [num_pages, 2, ...].
struct Pages {
  std::byte* data;
  std::int64_t num_pages;
  int page_size, num_heads, head_dim;
  bool heads_first;  // HND: [num_heads, page_size, head_dim] inside; else NHD: [page_size, num_heads, head_dim]

  __host__ __device__ std::int64_t row_bytes() const { return std::int64_t{2} * head_dim; }
  __host__ __device__ std::int64_t plane_bytes() const { return page_size * num_heads * row_bytes(); }
  __host__ __device__ std::int64_t page_bytes() const { return 2 * plane_bytes(); }
};

/// Makes NaN of the slots of each page from page_tokens[page] (device memory) on.
cudaError_t poison_slots(const Pages& pages, const std::int32_t* page_tokens, cudaStream_t stream);

/// Copies page list[i] (device memory) to to + i * page_bytes.
cudaError_t gather_pages(const Pages& pages, const std::int32_t* list, std::int64_t count, std::byte* to,
                         cudaStream_t stream);

/// Adds the number of NaN among `count` elements to *found. exponent_bits: the exponent's bits of the format, 0x7c00 or
/// 0x7f80; count_nan_f32 the same for float.
cudaError_t count_nan_16(const std::uint16_t* data, std::size_t count, std::uint16_t exponent_bits,
                         unsigned long long* found, cudaStream_t stream);
cudaError_t count_nan_f32(const float* data, std::size_t count, unsigned long long* found, cudaStream_t stream);

/// Reads `bytes`, a multiple of 16, so that the L2 cache holds nothing else; *sink may be written.
cudaError_t read_linear(const void* data, std::size_t bytes, unsigned* sink, cudaStream_t stream);

/// One thread that waits: gives the host time to enqueue what is timed next.
cudaError_t wait_nanoseconds(unsigned nanoseconds, cudaStream_t stream);

/// Does nothing: what a launch costs.
cudaError_t empty(cudaStream_t stream);

}  // namespace trunkline::tools::cuda
