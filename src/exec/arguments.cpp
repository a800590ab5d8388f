#include "exec/arguments.hpp"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "base/check.hpp"
#include "exec/cuda/backend.hpp"

namespace trunkline::exec {
namespace {

// Elements that one dimension may span: sums of three, in bytes, stay within 64 bits.
constexpr std::int64_t max_extent = std::int64_t{1} << 58;

std::string shape_text(const TensorView& view) {
  std::string text = "[";
  for (int i = 0; i < view.rank && i < TensorView::max_rank; ++i) {
    if (i > 0) text.append(", ");
    text.append(std::to_string(view.shape[i]));
  }
  return text.append("]");
}

// Messages are made when they are thrown: `run` allocates nothing.
[[noreturn]] void refuse(const char* name, const char* member, std::string expected, std::string got) {
  throw Error(ErrorCode::invalid_argument, std::string(name).append(".").append(member), std::move(expected),
              std::move(got));
}

void check_dtype(DType got, DType expected, const char* name) {
  if (got != expected) refuse(name, "dtype", to_string(expected), to_string(got));
}

// Of a view that has elements: a pointer, aligned to them.
void check_data(const void* data, DType dtype, const char* name, const char* member) {
  if (data == nullptr) refuse(name, member, "a pointer to the elements", "null");
  const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(data) % size_of(dtype);
  if (misaligned == 0) return;
  refuse(name, member, std::string("an address aligned to ").append(to_string(dtype)),
         std::to_string(misaligned).append(" bytes past one"));
}

std::int64_t num_elements(const TensorView& view, std::int64_t num_tokens) {
  std::int64_t result = num_tokens;
  for (int i = 1; i < view.rank; ++i) result *= view.shape[i];
  return result;
}

// Elements from the first to one past the last of one token.
std::int64_t token_extent(const TensorView& view) {
  std::int64_t last = 0;
  for (int i = 1; i < view.rank; ++i) last += (view.shape[i] - 1) * view.strides[i];
  return last + 1;
}

// Pieces of `piece` bytes, one every `stride` bytes, `whole` in all: the tokens of a view, the pages of a cache.
struct Bytes {
  std::int64_t begin, piece, stride, whole;
};
std::int64_t address_of(const void* data) { return static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(data)); }
Bytes bytes_of(const TensorView& view, std::int64_t num_tokens) {
  const auto size = static_cast<std::int64_t>(size_of(view.dtype));
  const std::int64_t token = token_extent(view) * size, stride = view.strides[0] * size;
  return {address_of(view.data), token, stride, (num_tokens - 1) * stride + token};
}
Bytes bytes_of(const KvView::Plane& plane, const KvView& kv) {
  const auto size = static_cast<std::int64_t>(size_of(kv.dtype));
  const std::int64_t page =
      ((kv.page_size - 1) * plane.token_stride + (kv.num_kv_heads - 1) * plane.head_stride + kv.head_dim) * size;
  const std::int64_t stride = plane.page_stride * size;
  return {address_of(plane.data), page, stride, (kv.num_pages - 1) * stride + page};
}

// The pieces of one may lie in the gaps of the other: slices of one packed tensor do, and what is kept between pages.
void require_apart(const Bytes& a, const char* a_name, const Bytes& b, const char* b_name) {
  if (a.begin + a.whole <= b.begin || b.begin + b.whole <= a.begin) return;
  if (b.stride > 0) {
    const std::int64_t shift = ((a.begin - b.begin) % b.stride + b.stride) % b.stride;
    const std::int64_t length = a.stride == b.stride ? a.piece : a.whole;
    if (shift >= b.piece && shift + length <= b.stride) return;
  }
  throw Error(ErrorCode::invalid_argument, a_name, std::string("memory apart from ").append(b_name), "an overlap");
}

// Of a view of rank 2 or 3. What is written must not hit one element twice: by ascending stride, each clears the extent
// of those below.
void check_strides(const TensorView& view, const char* name, std::int64_t num_tokens, bool written) {
  struct Dimension {
    std::int64_t stride = 0, size = 1;
  };
  std::array<Dimension, 3> dims{};
  for (int i = 0; i < view.rank; ++i) {
    dims[i] = {view.strides[i], i == 0 ? num_tokens : view.shape[i]};
    if (dims[i].stride < 0 || dims[i].stride > max_extent / dims[i].size) {
      refuse(name, "strides", "strides that are not negative and stay within an address space",
             std::to_string(dims[i].stride));
    }
  }
  if (!written) return;
  std::sort(dims.begin(), dims.end(), [](const auto& a, const auto& b) { return a.stride < b.stride; });
  std::int64_t below = 1;
  for (const auto [stride, size] : dims) {
    if (size <= 1) continue;
    if (stride < below) {
      refuse(name, "strides", "strides that keep elements apart (at least " + std::to_string(below) + ")",
             std::to_string(stride));
    }
    below += (size - 1) * stride;
  }
}

}  // namespace

void check_device(const Device& device, const char* argument) {
  if (device.kind == DeviceKind::cpu || cuda::built()) return;
  throw Error(ErrorCode::unsupported, argument, "cpu, since this build has no CUDA backend", to_string(device));
}

void check_same_device(const Device& device, const Device& expected, const char* argument) {
  check_device(device, argument);
  if (device.kind == expected.kind && (device.kind == DeviceKind::cpu || device.index == expected.index)) return;
  refuse(argument, "device", to_string(expected), to_string(device));
}

void check_max_rows(const DeviceSpec& spec, int max_wide_rows, int max_narrow_rows, int max_paired_rows,
                    const std::string& where) {
  const auto check = [&](const DeviceSpec::Lane& lane, int most, const char* name) {
    require(lane.max_rows <= most, name, "at most " + std::to_string(most) + ", the most rows of an item " + where,
            lane.max_rows);
  };
  check(spec.wide, max_wide_rows, "options.device.wide.max_rows");
  check(spec.narrow, max_narrow_rows, "options.device.narrow.max_rows");
  require(spec.paired_flops == 0 || 2 * spec.wide.max_rows <= max_paired_rows, "options.device.paired_flops",
          "0, as items of " + std::to_string(2 * spec.wide.max_rows) + " rows are more than one can have " + where,
          spec.paired_flops);
}

void check_row_granule(const DeviceSpec& spec, int granule, const std::string& who) {
  const auto check = [&](int rows, const char* name) {
    require(rows % granule == 0, name,
            "a multiple of " + std::to_string(granule) + ", as " + who + " cuts items between rows", rows);
  };
  check(spec.wide.max_rows, "options.device.wide.max_rows");
  check(spec.narrow.max_rows, "options.device.narrow.max_rows");
  if (spec.wide.max_rows > 0) check(spec.wide.row_granule, "options.device.wide.row_granule");
  if (spec.narrow.max_rows > 0) check(spec.narrow.row_granule, "options.device.narrow.row_granule");
}

void check_num_threads(int num_threads, const char* argument) {
  constexpr int max_threads = 4096;
  require(num_threads >= 1 && num_threads <= max_threads, argument, "1 to " + std::to_string(max_threads), num_threads);
}

void check_rows(const TensorView& view, const char* name, const Device& device, int num_heads, int head_dim,
                DType dtype, std::int64_t num_tokens, bool written) {
  check_same_device(view.device, device, name);
  check_dtype(view.dtype, dtype, name);
  if (view.rank != 3 || view.shape[0] < num_tokens || view.shape[1] != num_heads || view.shape[2] != head_dim) {
    std::string expected("[");
    expected.append(std::to_string(num_tokens)).append(" or more, ").append(std::to_string(num_heads));
    refuse(name, "shape", expected.append(", ").append(std::to_string(head_dim)).append("]"), shape_text(view));
  }
  if (view.strides[2] != 1 && head_dim > 1) {
    refuse(name, "strides[2]", "1 (contiguous head_dim)", std::to_string(view.strides[2]));
  }
  if (num_elements(view, num_tokens) == 0) return;
  check_data(view.data, view.dtype, name, "data");
  check_strides(view, name, num_tokens, written);
}

void check_lse(const TensorView& lse, const Device& device, int num_heads, std::int64_t num_tokens) {
  check_same_device(lse.device, device, "lse");
  check_dtype(lse.dtype, DType::float32, "lse");
  if (lse.rank != 2 || lse.shape[0] < num_tokens || lse.shape[1] != num_heads) {
    std::string expected("[");
    expected.append(std::to_string(num_tokens)).append(" or more, ").append(std::to_string(num_heads)).append("]");
    refuse("lse", "shape", std::move(expected), shape_text(lse));
  }
  if (num_elements(lse, num_tokens) == 0) return;
  check_data(lse.data, lse.dtype, "lse", "data");
  check_strides(lse, "lse", num_tokens, /*written=*/true);
}

void check_apart(const TensorView& written, const char* written_name, const TensorView& other, const char* other_name,
                 std::int64_t num_tokens) {
  if (num_elements(written, num_tokens) == 0 || num_elements(other, num_tokens) == 0) return;
  require_apart(bytes_of(written, num_tokens), written_name, bytes_of(other, num_tokens), other_name);
}

void check_apart(const TensorView& written, const char* written_name, const KvView& kv, std::int64_t num_tokens) {
  if (num_elements(written, num_tokens) == 0 || kv.num_pages == 0) return;
  const Bytes bytes = bytes_of(written, num_tokens);
  require_apart(bytes, written_name, bytes_of(kv.k, kv), "kv.k");
  require_apart(bytes, written_name, bytes_of(kv.v, kv), "kv.v");
}

void check_apart(const TensorView& written, const char* written_name, std::span<const std::byte> block,
                 const char* block_name, std::int64_t num_tokens) {
  if (num_elements(written, num_tokens) == 0 || block.empty()) return;
  const auto size = static_cast<std::int64_t>(block.size());
  require_apart(bytes_of(written, num_tokens), written_name, {address_of(block.data()), size, 0, size}, block_name);
}

void check_kv(const KvView& kv, const Device& device, const AttentionConfig& config) {
  check_same_device(kv.device, device, "kv");
  check_dtype(kv.dtype, config.kv_dtype, "kv");
  require(kv.page_size == config.page_size, "kv.page_size", config.page_size, kv.page_size);
  require(kv.num_kv_heads == config.num_kv_heads, "kv.num_kv_heads", config.num_kv_heads, kv.num_kv_heads);
  require(kv.head_dim == config.head_dim, "kv.head_dim", config.head_dim, kv.head_dim);
  check_kv_memory(kv);
}

void check_kv_memory(const KvView& kv) {
  kv.validate();
  if (kv.num_pages == 0) return;
  check_data(kv.k.data, kv.dtype, "kv", "k");
  check_data(kv.v.data, kv.dtype, "kv", "v");
}

void check_seq_lens(std::span<const std::int32_t> seq_lens, std::span<const std::int32_t> planned) {
  for (std::size_t r = 0; r < planned.size(); ++r) {
    if (seq_lens[r] >= 0 && seq_lens[r] <= planned[r]) continue;
    throw Error(ErrorCode::invalid_argument, "seq_lens[" + std::to_string(r) + "]",
                "0 to " + std::to_string(planned[r]) + ", the planned length", std::to_string(seq_lens[r]));
  }
}

}  // namespace trunkline::exec
