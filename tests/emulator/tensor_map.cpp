#include "emulator/tensor_map.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "emulator/traffic.hpp"

namespace trunkline::emulator {
namespace {

constexpr int most_dims = 5;
constexpr std::uint32_t element_bytes = 2;

struct TensorMap {
  const std::byte* data;
  std::uint64_t strides[most_dims];  // bytes
  std::uint32_t sizes[most_dims];
  std::uint16_t box[most_dims];
  std::uint16_t rank;
};
static_assert(sizeof(TensorMap) <= sizeof(CUtensorMap));

}  // namespace

// The limits are those of the driver's documentation, as far as kernels here come near them.
CUresult encode_tiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* data, const cuuint64_t* sizes,
                      const cuuint64_t* strides, const cuuint32_t* box, const cuuint32_t* steps,
                      CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                      CUtensorMapFloatOOBfill) {
  const bool known = (type == CU_TENSOR_MAP_DATA_TYPE_FLOAT16 || type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16) &&
                     interleave == CU_TENSOR_MAP_INTERLEAVE_NONE && swizzle == CU_TENSOR_MAP_SWIZZLE_128B;
  if (!known || rank < 1 || rank > most_dims || reinterpret_cast<std::uintptr_t>(data) % 16 != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  TensorMap made{};
  made.data = static_cast<const std::byte*>(data);
  made.rank = static_cast<std::uint16_t>(rank);
  for (unsigned i = 0; i < rank; ++i) {
    const bool fits =
        sizes[i] >= 1 && sizes[i] <= std::uint64_t{1} << 32 && box[i] >= 1 && box[i] <= 256 && steps[i] == 1;
    const std::uint64_t stride = i == 0 ? element_bytes : strides[i - 1];
    if (!fits || (i > 0 && (stride % 16 != 0 || stride >= std::uint64_t{1} << 40))) return CUDA_ERROR_INVALID_VALUE;
    made.strides[i] = stride;
    made.sizes[i] = static_cast<std::uint32_t>(std::min<std::uint64_t>(sizes[i], 0xFFFFFFFF));
    made.box[i] = static_cast<std::uint16_t>(box[i]);
  }
  if (box[0] * element_bytes > 128 || box[0] * element_bytes % 16 != 0) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(map, &made, sizeof(made));
  return CUDA_SUCCESS;
}

void start_box(void* to, const CUtensorMap* map, std::uint64_t* barrier, std::initializer_list<int> coordinates,
               Place place) {
  start_box_to(1u << cluster_rank(), to, map, barrier, coordinates, place);
}

void start_box_to(unsigned ctas, void* to, const CUtensorMap* map, std::uint64_t* barrier,
                  std::initializer_list<int> coordinates, Place place) {
  TensorMap tensor;
  std::memcpy(&tensor, map, sizeof(tensor));
  if (tensor.rank != coordinates.size()) fail("a copy of another rank than its tensor map", place);
  if (*coordinates.begin() != 0 || tensor.box[0] > tensor.sizes[0]) fail("only whole rows are emulated", place);
  std::uint32_t count = 1;
  for (int i = 0; i < tensor.rank; ++i) count *= tensor.box[i];
  const std::uint32_t line = tensor.box[0] * element_bytes;
  const std::uint32_t first = shared_address(to);
  if (first % 128 != 0) fail("a box begins at a multiple of 128 bytes", place);
  shared_memory(first + count * element_bytes - line, line, place);
  std::int64_t at[most_dims] = {};
  std::copy(coordinates.begin(), coordinates.end(), at);
  const auto copy = [tensor, first, count, line, at](std::byte* base, bool noted) {
    for (std::uint32_t i = 0; i < count / tensor.box[0]; ++i) {  // rows of the first dimension
      const std::byte* from = tensor.data;
      bool inside = true;
      for (std::uint32_t dim = 1, rest = i; dim < tensor.rank; rest /= tensor.box[dim], ++dim) {
        const std::int64_t index = at[dim] + rest % tensor.box[dim];
        inside = inside && index >= 0 && index < tensor.sizes[dim];
        from += index * static_cast<std::int64_t>(tensor.strides[dim]);
      }
      for (std::uint32_t chunk = 0; chunk < line / 16; ++chunk) {
        const std::uint32_t address = first + i * line + chunk * 16;
        std::byte* const chunk_to = base + ((address ^ (address >> 7 & 7) << 4) - first);
        if (inside) {
          std::memcpy(chunk_to, from + chunk * 16, 16);
          if (noted) note_read(from + chunk * 16, 16);
        } else {
          std::memset(chunk_to, 0, 16);
        }
      }
    }
  };
  if (ctas == 0) fail("a copy to no CTA", place);
  for (unsigned rest = ctas; rest != 0; rest &= rest - 1) {
    const auto rank = static_cast<unsigned>(std::countr_zero(rest));
    std::byte* const base = in_cta(rank, to, place);
    start_bulk_copy([copy, base, noted = rest == ctas] { copy(base, noted); }, rank,
                    reinterpret_cast<std::uint64_t*>(in_cta(rank, barrier, place)), count * element_bytes, place);
  }
}

}  // namespace trunkline::emulator
