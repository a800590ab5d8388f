#include "cuda/readers.hpp"

#include <algorithm>
#include <string>

#include "trunkline/error.hpp"

namespace trunkline::tools::cuda {
namespace {

constexpr int most_piece_bytes = 16 * 1024, stage_bytes = 32 * 1024, most_pieces_per_stage = 32;
constexpr int half_row_elements = 64;  // 128 bytes, the swizzle's width

int attribute(cudaDeviceAttr name) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, name, device), "cudaDeviceGetAttribute");
  return value;
}

/// Tokens read at a time: all of a page if they fit, else the most that divide it, in whole groups of 8 where possible.
int tokens_per_piece(const Pages& pages) {
  const auto most = static_cast<int>(std::max<std::int64_t>(1, most_piece_bytes / pages.row_bytes()));
  if (pages.page_size <= most) return pages.page_size;
  for (int granule : {8, 1}) {
    for (int tokens = most / granule * granule; tokens >= granule; tokens -= granule) {
      if (pages.page_size % tokens == 0) return tokens;
    }
  }
  return 1;
}

/// Dimensions (64 elements, 8 tokens, half rows of all heads of a token, groups of 8 tokens); HND pages hold one head's
/// rows, so that there the heads are in the last dimension.
CUtensorMap make_map(const Pages& pages, int cut_tokens) {
  void* symbol = nullptr;
  cudaDriverEntryPointQueryResult found{};
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &symbol, 12000, cudaEnableDefault, &found),
        "cudaGetDriverEntryPointByVersion");
  const auto encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(symbol);
  const auto half_rows = static_cast<cuuint64_t>(pages.head_dim / half_row_elements);
  const auto heads = static_cast<cuuint64_t>(pages.num_heads);
  const cuuint64_t heads_per_row = pages.heads_first ? 1 : heads;
  const cuuint64_t token_bytes = heads_per_row * static_cast<cuuint64_t>(pages.row_bytes());
  const cuuint64_t tokens = static_cast<cuuint64_t>(pages.num_pages) * 2 * static_cast<cuuint64_t>(pages.page_size) *
                            (pages.heads_first ? heads : 1);
  const cuuint64_t sizes[4] = {half_row_elements, 8, half_rows * heads_per_row, tokens / 8};
  const cuuint64_t strides[3] = {token_bytes, 2 * half_row_elements, token_bytes * 8};
  const cuuint32_t box[4] = {half_row_elements, 8, static_cast<cuuint32_t>(half_rows),
                             static_cast<cuuint32_t>(cut_tokens / 8)};
  const cuuint32_t steps[4] = {1, 1, 1, 1};
  CUtensorMap map{};
  const CUresult status = encode(&map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 4, pages.data, sizes, strides, box, steps,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    throw Error(ErrorCode::device_error, "cuTensorMapEncodeTiled", "success",
                "error " + std::to_string(static_cast<int>(status)));
  }
  return map;
}

}  // namespace

const char* to_string(ReadMethod method) {
  switch (method) {
    case ReadMethod::tensor:
      return "tensor";
    case ReadMethod::bulk:
      return "bulk";
    case ReadMethod::loads:
      return "loads";
  }
  return "?";
}

PageReader::PageReader(const Pages& pages, std::span<const PageTokens> list)
    : list_(upload(list)), sink_(sizeof(std::uint32_t)), num_sms_(attribute(cudaDevAttrMultiProcessorCount)) {
  arguments_.pages = pages;
  arguments_.list = list_.as<const PageTokens>();
  arguments_.sink = sink_.as<std::uint32_t>();
  arguments_.cut_tokens = tokens_per_piece(pages);
  arguments_.cuts = pages.page_size / arguments_.cut_tokens;
  arguments_.pieces_per_page = 2 * pages.num_heads * arguments_.cuts;
  arguments_.num_pieces = static_cast<std::int64_t>(list.size()) * arguments_.pieces_per_page;
  const auto piece_bytes = static_cast<int>(arguments_.cut_tokens * pages.row_bytes());
  arguments_.pieces_per_stage = most_pieces_per_stage;
  while (arguments_.pieces_per_stage * piece_bytes > stage_bytes) arguments_.pieces_per_stage /= 2;

  if (pages.head_dim % 8 != 0) return;  // rows of whole 16-byte words
  methods_.push_back(ReadMethod::loads);
  if (attribute(cudaDevAttrComputeCapabilityMajor) < 9) return;
  check(prepare_readers(), "cudaFuncSetAttribute");
  methods_.push_back(ReadMethod::bulk);
  if (pages.head_dim % half_row_elements != 0 || arguments_.cut_tokens % 8 != 0) return;
  map_ = make_map(pages, arguments_.cut_tokens);
  methods_.push_back(ReadMethod::tensor);
}

void PageReader::enqueue(ReadMethod method, cudaStream_t stream) const {
  check(launch_reader(method, arguments_, map_, num_sms_, stream), "page reader");
}

}  // namespace trunkline::tools::cuda
