#include "trunkline/kv_ops.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>
#include <utility>

#include "base/check.hpp"
#include "exec/arguments.hpp"
#include "exec/cuda/backend.hpp"

namespace trunkline {
namespace {

struct Dimension {
  std::int64_t size, from_stride, to_stride;  // elements
};

// Copies [outer, inner, row] elements of any size by strides, in the longest contiguous runs there are.
void copy_rows(const std::byte* from, std::byte* to, std::int64_t row, Dimension inner, Dimension outer,
               std::size_t element) {
  if (inner.from_stride > outer.from_stride) std::swap(inner, outer);
  std::int64_t run = row;
  for (Dimension* d : {&inner, &outer}) {
    if (d->size == 1) continue;
    if (d->from_stride != run || d->to_stride != run) break;
    run *= std::exchange(d->size, 1);
  }
  const auto bytes = static_cast<std::int64_t>(element);
  for (std::int64_t i = 0; i < outer.size; ++i) {
    for (std::int64_t j = 0; j < inner.size; ++j) {
      std::memcpy(to + (i * outer.to_stride + j * inner.to_stride) * bytes,
                  from + (i * outer.from_stride + j * inner.from_stride) * bytes,
                  static_cast<std::size_t>(run * bytes));
    }
  }
}

std::byte* at(const KvView& kv, const KvView::Plane& plane, std::int64_t page, std::int64_t token) {
  const std::int64_t offset = page * plane.page_stride + token * plane.token_stride;
  return static_cast<std::byte*>(plane.data) + offset * static_cast<std::int64_t>(size_of(kv.dtype));
}

void check_cache(const KvView& kv) {
  exec::check_device(kv.device, "kv");
  if (kv.dtype == DType::float8_e4m3) {
    throw Error(ErrorCode::unsupported, "kv.dtype", "float32, float16 or bfloat16, since fp8 is not built yet",
                to_string(kv.dtype));
  }
  exec::check_kv_memory(kv);
}

void append_token(const KvView& kv, const KvView::Plane& plane, const TensorView& rows, std::int64_t token,
                  std::int64_t slot) {
  const std::size_t element = size_of(kv.dtype);
  const auto* from =
      static_cast<const std::byte*>(rows.data) + token * rows.strides[0] * static_cast<std::int64_t>(element);
  copy_rows(from, at(kv, plane, slot / kv.page_size, slot % kv.page_size), kv.head_dim,
            {kv.num_kv_heads, rows.strides[1], plane.head_stride}, {1, 0, 0}, element);
}

void check_new_rows(const KvView& kv, const TensorView& k, const TensorView& v, std::int64_t num_tokens) {
  for (const auto& [rows, name] : {std::pair{&k, "k"}, std::pair{&v, "v"}}) {
    exec::check_rows(*rows, name, kv.device, kv.num_kv_heads, kv.head_dim, kv.dtype, num_tokens, /*written=*/false);
  }
}

}  // namespace

void append_kv(const KvView& kv, const TensorView& k, const TensorView& v, std::span<const std::int64_t> slots,
               Stream stream) {
  check_cache(kv);
  const auto num_tokens = static_cast<std::int64_t>(slots.size());
  check_new_rows(kv, k, v, num_tokens);
  const std::int64_t num_slots = kv.num_pages * kv.page_size;
  for (std::int64_t i = 0; i < num_tokens; ++i) {
    if (slots[i] < num_slots) continue;
    throw Error(ErrorCode::invalid_argument, "slots[" + std::to_string(i) + "]",
                "less than num_pages * page_size = " + std::to_string(num_slots), std::to_string(slots[i]));
  }
  if (kv.device.kind == DeviceKind::cuda) return exec::cuda::append_kv(kv, k, v, slots, stream);
  for (std::int64_t i = 0; i < num_tokens; ++i) {
    if (slots[i] < 0) continue;
    append_token(kv, kv.k, k, i, slots[i]);
    append_token(kv, kv.v, v, i, slots[i]);
  }
}

void append_kv(const KvView& kv, const TensorView& k, const TensorView& v, const std::int64_t* slots,
               std::int64_t num_tokens, Stream stream) {
  require(num_tokens >= 0, "num_tokens", "0 or more", num_tokens);
  require(slots != nullptr || num_tokens == 0, "slots", "a pointer to num_tokens slots", "null");
  if (kv.device.kind == DeviceKind::cpu) {
    return append_kv(kv, k, v, std::span(slots, static_cast<std::size_t>(num_tokens)), stream);
  }
  check_cache(kv);
  check_new_rows(kv, k, v, num_tokens);
  exec::cuda::append_kv_device_slots(kv, k, v, slots, num_tokens, stream);
}

void copy_kv(const KvView& kv, std::span<const PageCopy> copies, Stream stream) {
  check_cache(kv);
  const std::string pages = "a page in [0, " + std::to_string(kv.num_pages) + ")";
  for (std::size_t i = 0; i < copies.size(); ++i) {
    const PageCopy& copy = copies[i];
    const auto check = [&](bool holds, const char* member, const std::string& expected, std::int32_t got) {
      if (holds) return;
      throw Error(ErrorCode::invalid_argument, "copies[" + std::to_string(i) + "]." + member, expected,
                  std::to_string(got));
    };
    check(copy.src >= 0 && copy.src < kv.num_pages, "src", pages, copy.src);
    check(copy.dst >= 0 && copy.dst < kv.num_pages, "dst", pages, copy.dst);
    check(copy.src != copy.dst, "dst", "another page than src", copy.dst);
    check(copy.num_tokens >= 0 && copy.num_tokens <= kv.page_size, "num_tokens",
          "0 to page_size = " + std::to_string(kv.page_size), copy.num_tokens);
  }
  if (kv.device.kind == DeviceKind::cuda) return exec::cuda::copy_kv(kv, copies, stream);
  for (const PageCopy& copy : copies) {
    for (const KvView::Plane* plane : {&kv.k, &kv.v}) {
      copy_rows(at(kv, *plane, copy.src, 0), at(kv, *plane, copy.dst, 0), kv.head_dim,
                {copy.num_tokens, plane->token_stride, plane->token_stride},
                {kv.num_kv_heads, plane->head_stride, plane->head_stride}, size_of(kv.dtype));
    }
  }
}

}  // namespace trunkline
