#include "kernels/cuda/kv_ops.hpp"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/launch_chain.cuh"

namespace trunkline::kernels::cuda {
namespace {

constexpr int threads = 256;

// Where the rows of a copy lie, in vectors of the copy.
struct Plane {
  void* to;
  const void* from;
  std::int64_t to_page, to_token, to_head;  // strides
  std::int64_t from_token, from_head;
};

struct Shape {
  Plane k, v;
  std::int64_t num_pages;
  std::int32_t page_size;
  std::int32_t num_heads;
  std::int32_t row;  // vectors of head_dim
};

struct SlotArguments {
  std::int64_t slots[max_slots_per_launch];
};
struct MoveArguments {
  PageMove moves[max_moves_per_launch];
};

// One vector of one row of K or V: `index` runs over [token, plane, head, vector].
template <class Vector>
__device__ void append_vector(const Shape& shape, const std::int64_t* slots, std::int64_t index) {
  const auto vector = static_cast<std::int32_t>(index % shape.row);
  index /= shape.row;
  const auto head = static_cast<std::int32_t>(index % shape.num_heads);
  index /= shape.num_heads;
  const Plane& plane = index % 2 == 0 ? shape.k : shape.v;
  const std::int64_t token = index / 2, slot = slots[token];
  if (slot < 0 || slot >= shape.num_pages * shape.page_size) return;
  const std::int64_t page = slot / shape.page_size, in_page = slot % shape.page_size;
  static_cast<Vector*>(plane.to)[page * plane.to_page + in_page * plane.to_token + head * plane.to_head + vector] =
      static_cast<const Vector*>(plane.from)[token * plane.from_token + head * plane.from_head + vector];
}

template <class Vector>
__global__ void __launch_bounds__(threads)
    append_host_slots(const __grid_constant__ Shape shape, const __grid_constant__ SlotArguments arguments,
                      std::int64_t vectors) {
  let_next_launch_start();  // an attention launch looks up its plan, and waits before it reads any tokens
  const std::int64_t index = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (index < vectors) append_vector<Vector>(shape, arguments.slots, index);
}

template <class Vector>
__global__ void __launch_bounds__(threads)
    append_device_slots(const __grid_constant__ Shape shape, const std::int64_t* __restrict__ slots,
                        std::int64_t vectors) {
  let_next_launch_start();
  const std::int64_t index = std::int64_t{blockIdx.x} * threads + threadIdx.x;
  if (index < vectors) append_vector<Vector>(shape, slots, index);
}

// blockIdx.y is the move, and the plane.
template <class Vector>
__global__ void __launch_bounds__(threads)
    move_pages(const __grid_constant__ Shape shape, const __grid_constant__ MoveArguments arguments) {
  const PageMove move = arguments.moves[blockIdx.y / 2];
  const Plane& plane = blockIdx.y % 2 == 0 ? shape.k : shape.v;
  auto* const page = static_cast<Vector*>(plane.to);
  const std::int32_t vectors = move.num_tokens * shape.num_heads * shape.row;
  for (auto i = static_cast<std::int32_t>(blockIdx.x * threads + threadIdx.x); i < vectors;
       i += static_cast<std::int32_t>(gridDim.x * threads)) {
    const std::int32_t vector = i % shape.row, head = i / shape.row % shape.num_heads;
    const std::int32_t token = i / shape.row / shape.num_heads;
    const std::int64_t at = token * plane.to_token + head * plane.to_head + vector;
    page[move.dst * plane.to_page + at] = page[move.src * plane.to_page + at];
  }
}

// The widest vector that every address and stride of a copy allows.
class Width {
 public:
  explicit Width(std::int64_t row_bytes) { limit(row_bytes); }
  void limit(std::int64_t bytes) {
    while (bytes % bytes_ != 0) bytes_ /= 2;
  }
  void limit(const void* pointer) { limit(static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(pointer))); }
  std::int64_t bytes() const { return bytes_; }

 private:
  std::int64_t bytes_ = 16;
};

// k and v null: copies within the cache.
Shape shape_of(const CacheParams& cache, const RowsView* k, const RowsView* v, std::int64_t& vector_bytes) {
  const std::int64_t element = cache.element_bytes;
  Width width(cache.head_dim * element);
  for (const KvPlane* plane : {&cache.k, &cache.v}) {
    width.limit(plane->data);
    for (const std::int64_t stride : {plane->page_stride, plane->token_stride, plane->head_stride}) {
      width.limit(stride * element);
    }
  }
  for (const RowsView* rows : {k, v}) {
    if (rows == nullptr) continue;
    width.limit(rows->data);
    width.limit(rows->token_stride * element);
    width.limit(rows->head_stride * element);
  }
  vector_bytes = width.bytes();
  const auto plane_of = [&](const KvPlane& to, const RowsView* from) {
    const auto vectors = [&](std::int64_t elements) { return elements * element / vector_bytes; };
    Plane plane{};
    plane.to = const_cast<void*>(to.data);
    plane.to_page = vectors(to.page_stride);
    plane.to_token = vectors(to.token_stride);
    plane.to_head = vectors(to.head_stride);
    if (from == nullptr) return plane;
    plane.from = from->data;
    plane.from_token = vectors(from->token_stride);
    plane.from_head = vectors(from->head_stride);
    return plane;
  };
  return {plane_of(cache.k, k), plane_of(cache.v, v),
          cache.num_pages,      cache.page_size,
          cache.num_heads,      static_cast<std::int32_t>(cache.head_dim * element / vector_bytes)};
}

// Returns launch(Vector{}) with a vector of so many bytes.
template <class Launch>
int with_vector(std::int64_t bytes, Launch launch) {
  if (bytes == 16) return launch(uint4{});
  if (bytes == 8) return launch(uint2{});
  if (bytes == 4) return launch(std::uint32_t{});
  return launch(std::uint16_t{});
}

unsigned blocks_for(std::int64_t vectors) { return static_cast<unsigned>((vectors + threads - 1) / threads); }
LaunchShape launch_shape(std::int64_t vectors) { return {dim3(blocks_for(vectors)), dim3(threads)}; }

}  // namespace

int append_kv(const CacheParams& cache, const RowsView& k, const RowsView& v, const std::int64_t* host_slots,
              std::int64_t num_tokens, void* stream) {
  std::int64_t vector_bytes = 0;
  const Shape shape = shape_of(cache, &k, &v, vector_bytes);
  const std::int64_t vectors = num_tokens * 2 * shape.num_heads * shape.row;
  SlotArguments arguments;
  std::memcpy(arguments.slots, host_slots, static_cast<std::size_t>(num_tokens) * sizeof(std::int64_t));
  return with_vector(vector_bytes, [&](auto vector) {
    return launch(append_host_slots<decltype(vector)>, launch_shape(vectors), stream, shape, arguments, vectors);
  });
}

int append_kv_device_slots(const CacheParams& cache, const RowsView& k, const RowsView& v, const std::int64_t* slots,
                           std::int64_t num_tokens, void* stream) {
  std::int64_t vector_bytes = 0;
  const Shape shape = shape_of(cache, &k, &v, vector_bytes);
  const std::int64_t vectors = num_tokens * 2 * shape.num_heads * shape.row;
  return with_vector(vector_bytes, [&](auto vector) {
    return launch(append_device_slots<decltype(vector)>, launch_shape(vectors), stream, shape, slots, vectors);
  });
}

int copy_kv(const CacheParams& cache, const PageMove* moves, int num_moves, void* stream) {
  std::int64_t vector_bytes = 0;
  const Shape shape = shape_of(cache, nullptr, nullptr, vector_bytes);
  MoveArguments arguments;
  std::memcpy(arguments.moves, moves, static_cast<std::size_t>(num_moves) * sizeof(PageMove));
  const std::int64_t page = std::int64_t{shape.page_size} * shape.num_heads * shape.row;
  const dim3 grid(std::min(blocks_for(page), 64u), static_cast<unsigned>(2 * num_moves));
  return with_vector(vector_bytes, [&](auto vector) {
    return launch(move_pages<decltype(vector)>, {grid, dim3(threads)}, stream, shape, arguments);
  });
}

}  // namespace trunkline::kernels::cuda
