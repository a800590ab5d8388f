#include "trunkline/kv_view.hpp"

#include <algorithm>
#include <array>
#include <string>

#include "base/check.hpp"

namespace trunkline {
namespace {

KvView shaped(DType dtype, std::int64_t num_pages, int page_size, int num_kv_heads, int head_dim, Device device) {
  KvView view;
  view.dtype = dtype;
  view.device = device;
  view.num_pages = num_pages;
  view.page_size = page_size;
  view.num_kv_heads = num_kv_heads;
  view.head_dim = head_dim;
  return view;
}

KvView::Plane plane(void* data, KvLayout layout, const KvView& shape, std::int64_t page_stride) {
  const std::int64_t row = shape.head_dim;
  if (layout == KvLayout::nhd) return {data, page_stride, row * shape.num_kv_heads, row};
  return {data, page_stride, row, row * shape.page_size};
}

// No two of the (page, slot, head) rows may share an element: sorted by stride, each stride must clear the extent of
// the dimensions below it. A dimension of size 1 has no say.
void check_strides(const KvView& view, const KvView::Plane& plane, const char* argument) {
  struct Dimension {
    std::int64_t size, stride;
  };
  std::array<Dimension, 3> dims{{{view.num_pages, plane.page_stride},
                                 {view.page_size, plane.token_stride},
                                 {view.num_kv_heads, plane.head_stride}}};
  std::sort(dims.begin(), dims.end(), [](const auto& a, const auto& b) { return a.stride < b.stride; });
  std::int64_t extent = view.head_dim;
  for (const Dimension& d : dims) {
    if (d.size <= 1) continue;
    require(d.stride >= extent, argument,
            "strides that keep pages, tokens and heads apart (at least " + std::to_string(extent) + " elements)",
            d.stride);
    extent += (d.size - 1) * d.stride;
  }
}

}  // namespace

KvView KvView::interleaved(void* data, DType dtype, KvLayout layout, std::int64_t num_pages, int page_size,
                           int num_kv_heads, int head_dim, Device device) {
  KvView view = shaped(dtype, num_pages, page_size, num_kv_heads, head_dim, device);
  const std::int64_t plane_elements = std::int64_t{page_size} * num_kv_heads * head_dim;
  auto* bytes = static_cast<std::byte*>(data);
  view.k = plane(bytes, layout, view, 2 * plane_elements);
  view.v = plane(bytes ? bytes + plane_elements * static_cast<std::int64_t>(size_of(dtype)) : nullptr, layout, view,
                 2 * plane_elements);
  return view;
}

KvView KvView::separate(void* k, void* v, DType dtype, KvLayout layout, std::int64_t num_pages, int page_size,
                        int num_kv_heads, int head_dim, Device device) {
  KvView view = shaped(dtype, num_pages, page_size, num_kv_heads, head_dim, device);
  const std::int64_t plane_elements = std::int64_t{page_size} * num_kv_heads * head_dim;
  view.k = plane(k, layout, view, plane_elements);
  view.v = plane(v, layout, view, plane_elements);
  return view;
}

void KvView::validate() const {
  require(num_pages >= 0, "kv.num_pages", "0 or more", num_pages);
  require(page_size >= 1 && page_size <= max_page_size, "kv.page_size", "1 to 1024 tokens", page_size);
  require(num_kv_heads >= 1, "kv.num_kv_heads", "1 or more", num_kv_heads);
  require(head_dim >= 1 && head_dim <= max_head_dim, "kv.head_dim", "1 to 256", head_dim);
  require(num_pages == 0 || k.data != nullptr, "kv.k", "a pointer to K", "null");
  require(num_pages == 0 || v.data != nullptr, "kv.v", "a pointer to V", "null");
  check_strides(*this, k, "kv.k strides");
  check_strides(*this, v, "kv.v strides");
}

}  // namespace trunkline
