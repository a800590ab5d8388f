#include "cuda/readers.hpp"

namespace trunkline::tools::cuda {
namespace {

constexpr int num_stages = 6;
constexpr int stage_bytes = 32 * 1024;
constexpr int warp = 32;

/// Piece `index` of a page's; no tokens beyond the end of the list.
struct Piece {
  std::int32_t page = 0, page_tokens = 0;
  int index = 0;
};

__device__ Piece piece_at(const ReadArguments& arguments, std::int64_t at, std::int64_t end) {
  if (at >= end) return {};
  const PageTokens entry = arguments.list[at / arguments.pieces_per_page];
  return {entry.page, entry.tokens, static_cast<int>(at % arguments.pieces_per_page)};
}

/// What of the page it is.
struct Place {
  int plane, head, first_token;
};

__device__ Place place_of(const ReadArguments& arguments, const Piece& piece) {
  const int per_plane = arguments.pages.num_heads * arguments.cuts, in_plane = piece.index % per_plane;
  return {piece.index / per_plane, in_plane / arguments.cuts, in_plane % arguments.cuts * arguments.cut_tokens};
}

__device__ int bytes_of(const ReadArguments& arguments, const Piece& piece) {
  const int tokens = min(arguments.cut_tokens, piece.page_tokens - place_of(arguments, piece).first_token);
  return max(0, tokens) * static_cast<int>(arguments.pages.row_bytes());
}

/// Where its bytes lie. The used slots of an NHD page are one run; it is dealt out evenly to the heads: the same bytes
/// as all heads' rows together.
__device__ const std::byte* address_of(const ReadArguments& arguments, const Piece& piece) {
  const Pages& pages = arguments.pages;
  const Place place = place_of(arguments, piece);
  const int head_tokens = pages.heads_first ? pages.page_size : piece.page_tokens;
  return pages.data + piece.page * pages.page_bytes() + place.plane * pages.plane_bytes() +
         (std::int64_t{place.head} * head_tokens + place.first_token) * pages.row_bytes();
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

__device__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ void init_barrier(std::uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

__device__ void arrive_expecting(std::uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}

__device__ void wait(std::uint64_t* barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

__device__ void copy_bulk(void* to, const std::byte* from, int bytes, std::uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(from), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}

__device__ void copy_box(void* to, const CUtensorMap* map, int half_row, int group, std::uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %2, %3, %4}], "
      "[%5];" ::"r"(shared_address(to)),
      "l"(map), "r"(0), "r"(half_row), "r"(group), "r"(shared_address(barrier))
      : "memory");
}

#endif

/// Grid: one CTA of one warp per SM. Shared memory: the ring. Lane l serves piece `base + l`; the lanes of a stage
/// arrive on its barrier, each with its piece's bytes. A stage is filled again as soon as it is full.
template <ReadMethod method>
__global__ void __launch_bounds__(warp, 1)
    ring_kernel(const ReadArguments arguments, const __grid_constant__ CUtensorMap map) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  extern __shared__ __align__(1024) std::byte ring[];
  __shared__ std::uint64_t full[num_stages];
  const int lane = threadIdx.x, per_stage = arguments.pieces_per_stage;
  const Pages& pages = arguments.pages;
  const int box_bytes = arguments.cut_tokens * static_cast<int>(pages.row_bytes());
  if (lane == 0) {
    for (int stage = 0; stage < num_stages; ++stage) init_barrier(&full[stage], per_stage);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncwarp();
  const std::int64_t begin = arguments.num_pieces * blockIdx.x / gridDim.x;
  const std::int64_t end = arguments.num_pieces * (blockIdx.x + 1) / gridDim.x;
  int fill = 0;
  Piece piece = piece_at(arguments, begin + lane, end);
  for (std::int64_t base = begin; base < end; base += warp) {
    const Piece next = piece_at(arguments, base + warp + lane, end);
    for (int first = 0; first < warp && base + first < end; first += per_stage, ++fill) {
      const int stage = fill % num_stages;
      if (fill >= num_stages) wait(&full[stage], (fill / num_stages - 1) & 1);
      if (lane >= first && lane < first + per_stage) {
        std::byte* to = ring + stage * stage_bytes + (lane - first) * (stage_bytes / per_stage);
        const int bytes = bytes_of(arguments, piece);
        if constexpr (method == ReadMethod::bulk) {
          arrive_expecting(&full[stage], bytes);
          if (bytes > 0) copy_bulk(to, address_of(arguments, piece), bytes, &full[stage]);
        } else {
          arrive_expecting(&full[stage], bytes > 0 ? box_bytes : 0);
          const Place place = place_of(arguments, piece);
          const int plane = piece.page * 2 + place.plane;
          const int token = (pages.heads_first ? plane * pages.num_heads + place.head : plane) * pages.page_size;
          const int half_row = pages.heads_first ? 0 : place.head * (pages.head_dim / 64);
          if (bytes > 0) copy_box(to, &map, half_row, (token + place.first_token) / 8, &full[stage]);
        }
      }
      __syncwarp();
    }
    piece = next;
  }
  for (int last = max(0, fill - num_stages); last < fill; ++last) {
    wait(&full[last % num_stages], (last / num_stages) & 1);
  }
#endif
}

constexpr int load_threads = 256, load_blocks_per_sm = 4, loads_in_flight = 8;

/// A warp takes pieces a grid's warps apart.
__global__ void __launch_bounds__(load_threads, load_blocks_per_sm) loads_kernel(const ReadArguments arguments) {
  const int lane = threadIdx.x % warp;
  const std::int64_t num_warps = std::int64_t{gridDim.x} * (load_threads / warp);
  std::int64_t at = std::int64_t{blockIdx.x} * (load_threads / warp) + threadIdx.x / warp;
  std::uint32_t folded = 0;
  Piece piece = piece_at(arguments, at, arguments.num_pieces);
  for (; at < arguments.num_pieces; at += num_warps) {
    const Piece next = piece_at(arguments, at + num_warps, arguments.num_pieces);
    const auto* words = reinterpret_cast<const uint4*>(address_of(arguments, piece));
    const int count = bytes_of(arguments, piece) / 16;
    for (int base = lane; base < count; base += warp * loads_in_flight) {
      uint4 loaded[loads_in_flight];
#pragma unroll
      for (int i = 0; i < loads_in_flight; ++i) {
        const int word = base + i * warp;
        loaded[i] = word < count ? __ldcs(words + word) : uint4{};
      }
#pragma unroll
      for (const uint4& word : loaded) folded |= word.x ^ word.y ^ word.z ^ word.w;
    }
    piece = next;
  }
  if (folded == 0x80000001u) *arguments.sink = folded;  // gives the loads a use
}

}  // namespace

cudaError_t prepare_readers() {
  constexpr int ring_bytes = num_stages * stage_bytes;
  const auto raise = [](auto* kernel) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, ring_bytes);
  };
  const cudaError_t status = raise(ring_kernel<ReadMethod::tensor>);
  return status != cudaSuccess ? status : raise(ring_kernel<ReadMethod::bulk>);
}

cudaError_t launch_reader(ReadMethod method, const ReadArguments& arguments, const CUtensorMap& map, int num_sms,
                          cudaStream_t stream) {
  constexpr int ring_bytes = num_stages * stage_bytes;
  const auto sms = static_cast<unsigned>(num_sms);
  switch (method) {
    case ReadMethod::tensor:
      ring_kernel<ReadMethod::tensor><<<sms, warp, ring_bytes, stream>>>(arguments, map);
      break;
    case ReadMethod::bulk:
      ring_kernel<ReadMethod::bulk><<<sms, warp, ring_bytes, stream>>>(arguments, map);
      break;
    case ReadMethod::loads:
      loads_kernel<<<sms * load_blocks_per_sm, load_threads, 0, stream>>>(arguments);
      break;
  }
  return cudaGetLastError();
}

}  // namespace trunkline::tools::cuda
