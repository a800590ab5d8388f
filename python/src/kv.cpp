// KvCache, append_kv, copy_kv.
#include <algorithm>
#include <string>
#include <vector>

#include "binding/binding.hpp"
#include "binding/libraries.hpp"
#include "trunkline/error.hpp"
#include "trunkline/kv_ops.hpp"

namespace trunkline::python {
namespace {

KvLayout read_layout(const std::string& layout) {
  if (layout == "NHD") return KvLayout::nhd;
  if (layout == "HND") return KvLayout::hnd;
  throw Error(ErrorCode::invalid_argument, "layout", "\"NHD\" or \"HND\"", "'" + layout + "'");
}

std::string shape_text(const Array& array) {
  std::string text = "[";
  for (int i = 0; i < array.rank; ++i) text += (i > 0 ? ", " : "") + std::to_string(array.shape[i]);
  return text + "]";
}

void check_rank(const Array& array, int rank, KvLayout layout, const char* name) {
  if (array.rank == rank) return;
  const std::string inner =
      layout == KvLayout::nhd ? "page_size, num_kv_heads, head_dim]" : "num_kv_heads, page_size, head_dim]";
  throw Error(ErrorCode::invalid_argument, std::string(name) + ".shape",
              (rank == 4 ? "[num_pages, " : "[num_pages, 2, ") + inner, shape_text(array));
}

// Strides of the last three dimensions, which are tokens, heads and elements in the layout's order.
KvView::Plane plane_of(const Array& array, KvLayout layout, const char* name) {
  const int last = array.rank - 1;
  if (array.strides[last] != 1 && array.shape[last] > 1) {
    throw Error(ErrorCode::invalid_argument, std::string(name) + ".strides[" + std::to_string(last) + "]",
                "1 (contiguous head_dim)", std::to_string(array.strides[last]));
  }
  const int token = layout == KvLayout::nhd ? last - 2 : last - 1, head = layout == KvLayout::nhd ? last - 1 : last - 2;
  return {array.data, array.strides[0], array.strides[token], array.strides[head]};
}

KvView shaped(const Array& array, KvLayout layout, const char* name) {
  constexpr std::int64_t most = 0x7fffffff;
  for (int i = 1; i < array.rank; ++i) {
    if (array.shape[i] > most) {
      throw Error(ErrorCode::invalid_argument, std::string(name) + ".shape", "fewer than 2^31 in a dimension",
                  shape_text(array));
    }
  }
  const int last = array.rank - 1;
  KvView view;
  view.dtype = dtype_of(array, name);
  view.device = array.device;
  view.num_pages = array.shape[0];
  view.page_size = static_cast<int>(array.shape[layout == KvLayout::nhd ? last - 2 : last - 1]);
  view.num_kv_heads = static_cast<int>(array.shape[layout == KvLayout::nhd ? last - 1 : last - 2]);
  view.head_dim = static_cast<int>(array.shape[last]);
  return view;
}

PyKvCache separate(nb::handle k, nb::handle v, const std::string& layout_name) {
  const KvLayout layout = read_layout(layout_name);
  const Array keys = read_array(k, "k", Access::read), values = read_array(v, "v", Access::read);
  check_rank(keys, 4, layout, "k");
  check_rank(values, 4, layout, "v");
  if (!std::equal(keys.shape.begin(), keys.shape.begin() + 4, values.shape.begin())) {
    throw Error(ErrorCode::invalid_argument, "v.shape", shape_text(keys) + ", that of k", shape_text(values));
  }
  if (dtype_of(keys, "k") != dtype_of(values, "v")) {
    throw Error(ErrorCode::invalid_argument, "v.dtype", to_string(keys.dtype), to_string(values.dtype));
  }
  if (!(keys.device == values.device)) {
    throw Error(ErrorCode::invalid_argument, "v.device", trunkline::to_string(keys.device),
                trunkline::to_string(values.device));
  }
  if (keys.data == values.data && keys.data != nullptr) {
    throw Error(ErrorCode::invalid_argument, "v", "memory apart from k", "that of k");
  }
  PyKvCache cache;
  cache.view = shaped(keys, layout, "k");
  cache.view.k = plane_of(keys, layout, "k");
  cache.view.v = plane_of(values, layout, "v");
  cache.writable = keys.writable && values.writable;
  cache.view.validate();
  cache.k = BoundArray(k, keys);
  cache.v = BoundArray(v, values);
  return cache;
}

PyKvCache interleaved(nb::handle kv, const std::string& layout_name) {
  const KvLayout layout = read_layout(layout_name);
  const Array both = read_array(kv, "kv", Access::read);
  check_rank(both, 5, layout, "kv");
  if (both.shape[1] != 2) {
    throw Error(ErrorCode::invalid_argument, "kv.shape[1]", "2 (K and V)", std::to_string(both.shape[1]));
  }
  PyKvCache cache;
  cache.view = shaped(both, layout, "kv");
  cache.view.k = cache.view.v = plane_of(both, layout, "kv");
  if (both.data != nullptr) {
    cache.view.v.data =
        static_cast<std::byte*>(both.data) + both.strides[1] * static_cast<std::int64_t>(size_of(cache.view.dtype));
  }
  cache.writable = both.writable;
  cache.view.validate();
  cache.k = BoundArray(kv, both);
  return cache;
}

void check_writable(const PyKvCache& kv) {
  kv.check_memory();
  if (kv.writable) return;
  throw Error(ErrorCode::invalid_argument, "kv", "arrays that can be written", "read-only ones");
}

void append(const PyKvCache& kv, nb::handle k, nb::handle v, nb::handle slots, nb::handle stream) {
  check_writable(kv);
  const Array keys = read_array(k, "k", Access::read), values = read_array(v, "v", Access::read);
  const TensorView key_view = view_of(keys, "k"), value_view = view_of(values, "v");
  const Stream on = read_stream(stream, kv.view.device, k);
  const Integers<std::int64_t> numbers(slots, "slots", kv.view.device);
  const std::span<const std::int64_t> span = numbers;
  nb::gil_scoped_release released;
  if (numbers.device().kind == DeviceKind::cpu) return append_kv(kv.view, key_view, value_view, span, on);
  append_kv(kv.view, key_view, value_view, span.data(), static_cast<std::int64_t>(span.size()), on);
}

PageCopy read_copy(nb::handle object) {
  const PageCopy* copy = nullptr;
  if (nb::try_cast(object, copy) && copy != nullptr) return *copy;
  const nb::tuple t = read_tuple(object, 3, "copies", "(src, dst, num_tokens), a PageCopy or None");
  return {read_integer<std::int32_t>(t[0], "copies.src"), read_integer<std::int32_t>(t[1], "copies.dst"),
          read_integer<std::int32_t>(t[2], "copies.num_tokens")};
}

void copy(const PyKvCache& kv, nb::handle copies, nb::handle stream) {
  check_writable(kv);
  std::vector<PageCopy> list;
  if (nb::isinstance<PageCopy>(copies)) {
    list.push_back(read_copy(copies));
  } else if (!copies.is_none()) {
    if (!nb::isinstance<nb::iterable>(copies)) {
      const std::string message = "copies: expected a PageCopy, None or a sequence of them, got ";
      throw nb::type_error((message + full_type_name(copies)).c_str());
    }
    for (nb::handle entry : nb::cast<nb::iterable>(copies)) {
      if (!entry.is_none()) list.push_back(read_copy(entry));
    }
  }
  const Stream on = read_stream(stream, kv.view.device, kv.k.object());
  nb::gil_scoped_release released;
  copy_kv(kv.view, list, on);
}

constexpr const char* kv_doc = R"(The KV cache: views of the engine's own arrays, bound once and kept alive.

Nothing is copied. Any strides do, padded pages too, as long as head_dim is contiguous.

Parameters
----------
k, v : array
    ``"NHD"``: [num_pages, page_size, num_kv_heads, head_dim]; ``"HND"``: [num_pages, num_kv_heads, page_size,
    head_dim]. float32, float16 or bfloat16, both on one device. Read-only arrays (JAX) serve all but `append_kv` and
    `copy_kv`. One array [2, num_pages, ...] is ``KvCache(kv[0], kv[1])``; one of [num_pages, 2, ...] is for
    `KvCache.interleaved`.
layout : {"NHD", "HND"}

Raises
------
ValueError
    Naming the argument; also where the strides let two tokens overlap, and where k and v begin at one address.

Examples
--------
>>> import numpy as np
>>> import trunkline as tl
>>> pages = np.zeros((8, 2, 16, 2, 64), np.float32)
>>> kv = tl.KvCache.interleaved(pages)
>>> kv.num_pages, kv.page_size, kv.num_kv_heads, kv.head_dim, kv.dtype, kv.device
(8, 16, 2, 64, 'float32', 'cpu')
>>> tl.append_kv(kv, np.ones((1, 2, 64), np.float32), np.ones((1, 2, 64), np.float32), slots=[3 * 16 + 5])
>>> float(pages[3, 0, 5].sum())
128.0
)";

}  // namespace

void bind_kv(nb::module_& m) {
  nb::class_<PyKvCache>(m, "KvCache", kv_doc)
      .def(
          "__init__",
          [](PyKvCache* self, nb::handle k, nb::handle v, const std::string& layout) {
            new (self) PyKvCache(separate(k, v, layout));
          },
          nb::arg("k"), nb::arg("v"), nb::arg("layout") = "NHD",
          nb::sig(
              "def __init__(self, k: trunkline.typing.Array, v: trunkline.typing.Array, layout: str = 'NHD') -> None"))
      .def_static("interleaved", &interleaved, nb::arg("kv"), nb::arg("layout") = "NHD",
                  nb::sig("def interleaved(kv: trunkline.typing.Array, layout: str = 'NHD') -> KvCache"),
                  "Of one array: ``\"NHD\"`` [num_pages, 2, page_size, num_kv_heads, head_dim] or ``\"HND\"``\n"
                  "[num_pages, 2, num_kv_heads, page_size, head_dim].")
      .def_prop_ro("num_pages", [](const PyKvCache& kv) { return kv.view.num_pages; })
      .def_prop_ro("page_size", [](const PyKvCache& kv) { return kv.view.page_size; })
      .def_prop_ro("num_kv_heads", [](const PyKvCache& kv) { return kv.view.num_kv_heads; })
      .def_prop_ro("head_dim", [](const PyKvCache& kv) { return kv.view.head_dim; })
      .def_prop_ro("dtype", [](const PyKvCache& kv) { return trunkline::to_string(kv.view.dtype); })
      .def_prop_ro("device", [](const PyKvCache& kv) { return trunkline::to_string(kv.view.device); })
      .def_prop_ro("writable", [](const PyKvCache& kv) { return kv.writable; });
  m.def("append_kv", &append, nb::arg("kv"), nb::arg("k"), nb::arg("v"), nb::arg("slots"),
        nb::arg("stream") = nb::none(),
        nb::sig("def append_kv(kv: KvCache, k: trunkline.typing.Array, v: trunkline.typing.Array, slots: "
                "trunkline.typing.Ints, stream: trunkline.typing.Stream = None) -> None"),
        R"(Writes K and V of new tokens into the pages.

Parameters
----------
kv : KvCache
k, v : array [num_tokens or more, num_kv_heads, head_dim]
    The cache's dtype and device, contiguous head_dim; not tensors that require a gradient where PyTorch records.
slots : int64 [num_tokens]
    ``page * page_size + token``; a negative one is skipped. For a CUDA cache either on the host, or on the device: then
    the host does not read them, and a captured call writes where they say at its replay.
stream : optional
    As in `Attention.run`.

Raises
------
ValueError
    Before anything is written.)");
  m.def(
      "copy_kv", &copy, nb::arg("kv"), nb::arg("copies").none(), nb::arg("stream") = nb::none(),
      nb::sig("def copy_kv(kv: KvCache, copies: PageCopy | None | typing.Iterable[PageCopy | tuple[int, int, int] | "
              "None], stream: trunkline.typing.Stream = None) -> None"),
      "Carries out page copies in order: what `PrefixTree.insert` and `append` gave as their ``copy``, None included.");
}

}  // namespace trunkline::python
