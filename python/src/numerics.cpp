// merge, and the double-precision reference.
#include <nanobind/stl/optional.h>

#include <array>
#include <cmath>
#include <vector>

#include "binding/binding.hpp"
#include "trunkline/error.hpp"
#include "trunkline/merge.hpp"
#include "trunkline/reference.hpp"

namespace trunkline::python {
namespace {

nb::object merge(nb::handle out_a, nb::handle lse_a, nb::handle out_b, nb::handle lse_b, nb::object out,
                 nb::object lse) {
  const Array a = read_array(out_a, "out_a", Access::read), a_sums = read_array(lse_a, "lse_a", Access::read);
  const Array b = read_array(out_b, "out_b", Access::read), b_sums = read_array(lse_b, "lse_b", Access::read);
  const TensorView a_view = view_of(a, "out_a"), a_lse = lse_view_of(a_sums, "lse_a");
  const TensorView b_view = view_of(b, "out_b"), b_lse = lse_view_of(b_sums, "lse_b");
  if (out.is_none()) {
    out = allocate_like(out_a, {a_view.shape.data(), static_cast<std::size_t>(a_view.rank)}, /*float32=*/false, "out");
  }
  if (lse.is_none()) {
    lse = allocate_like(out_a, {a_lse.shape.data(), static_cast<std::size_t>(a_lse.rank)}, /*float32=*/true, "lse");
  }
  const Array result = read_array(out, "out", Access::write), sums = read_array(lse, "lse", Access::write);
  const TensorView result_view = view_of(result, "out"), sums_view = lse_view_of(sums, "lse");
  {
    nb::gil_scoped_release released;
    merge_states(a_view, a_lse, b_view, b_lse, result_view, sums_view);
  }
  return nb::make_tuple(out, lse);
}

struct PyReference {
  nb::object out, lse, bound, lse_bound;
};

PyReference reference(nb::handle q, const PyKvCache& kv, nb::handle tables, nb::handle seq_lens, nb::handle qo_lens,
                      std::optional<double> scale) {
  kv.check_memory();
  const Array queries = read_array(q, "q", Access::read);
  const TensorView view = view_of(queries, "q");
  const TablesArgument table(tables, "tables");
  const Integers<std::int32_t> lengths(seq_lens, "seq_lens"), counts = read_optional<std::int32_t>(qo_lens, "qo_lens");
  ReferenceResult result;
  {
    nb::gil_scoped_release released;
    const double factor = scale.value_or(1 / std::sqrt(static_cast<double>(kv.view.head_dim)));
    result = reference_attention(view, kv.view, table.tables(), lengths, counts, factor);
  }
  const std::int64_t heads = view.shape[1], head_dim = view.shape[2];
  const auto tokens = static_cast<std::int64_t>(result.lse.size()) / (heads > 0 ? heads : 1);
  return {to_numpy(std::move(result.out), {tokens, heads, head_dim}), to_numpy(std::move(result.lse), {tokens, heads}),
          to_numpy(std::move(result.bound), {tokens, heads, head_dim}),
          to_numpy(std::move(result.lse_bound), {tokens, heads})};
}

}  // namespace

void bind_numerics(nb::module_& m) {
  m.def(
      "merge", &merge, nb::arg("out_a"), nb::arg("lse_a"), nb::arg("out_b"), nb::arg("lse_b"),
      nb::arg("out") = nb::none(), nb::arg("lse") = nb::none(),
      nb::sig("def merge(out_a: trunkline.typing.Array, lse_a: trunkline.typing.Array, out_b: trunkline.typing.Array, "
              "lse_b: trunkline.typing.Array, out: trunkline.typing.Array | None = None, lse: trunkline.typing.Array | "
              "None = None) -> tuple[typing.Any, typing.Any]"),
      R"(Attention over the union of two disjoint sets of tokens, exactly. CPU memory.

Parameters
----------
out_a, out_b : array [n, num_heads, head_dim]
    One dtype, contiguous head_dim.
lse_a, lse_b : float32 array [n, num_heads]
    Natural logarithm; -inf: no token.
out, lse : arrays, optional
    Like those of a, which they may be; allocated when not given.

Returns
-------
(out, lse)

Raises
------
ValueError
    Before anything is written.

Examples
--------
>>> import numpy as np
>>> import trunkline as tl
>>> zeros, ones = np.zeros((1, 1, 4), np.float32), np.ones((1, 1, 4), np.float32)
>>> one_token, three_tokens = np.log(np.float32([[1]])), np.log(np.float32([[3]]))
>>> out, lse = tl.merge(zeros, one_token, ones, three_tokens)
>>> out
array([[[0.75, 0.75, 0.75, 0.75]]], dtype=float32)
)");
  nb::class_<PyReference>(m, "Reference", "What `reference_attention` gives: float64, and bounds of a good evaluation.")
      .def_prop_ro(
          "out", [](const PyReference& r) { return r.out; }, nb::sig("def out(self) -> trunkline.typing.Float64Array"),
          "[tokens, num_qo_heads, head_dim]")
      .def_prop_ro(
          "lse", [](const PyReference& r) { return r.lse; }, nb::sig("def lse(self) -> trunkline.typing.Float64Array"),
          "[tokens, num_qo_heads]")
      .def_prop_ro(
          "bound", [](const PyReference& r) { return r.bound; },
          nb::sig("def bound(self) -> trunkline.typing.Float64Array"), "Of out in q's dtype, element by element.")
      .def_prop_ro(
          "lse_bound", [](const PyReference& r) { return r.lse_bound; },
          nb::sig("def lse_bound(self) -> trunkline.typing.Float64Array"), "Of lse in float32.");
  m.def(
      "reference_attention", &reference, nb::arg("q"), nb::arg("kv"), nb::arg("tables"), nb::arg("seq_lens"),
      nb::arg("qo_lens") = nb::none(), nb::arg("scale") = nb::none(),
      nb::sig(
          "def reference_attention(q: trunkline.typing.Array, kv: KvCache, tables: trunkline.typing.Tables, seq_lens: "
          "trunkline.typing.Ints, qo_lens: trunkline.typing.Ints | None = None, scale: float | None = None) -> "
          "Reference"),
      R"(The double-precision oracle, straight from block tables: short, obvious, slow. CPU memory.

Parameters
----------
q : array [sum(qo_lens) or more, num_qo_heads, head_dim]
kv : KvCache
tables, seq_lens, qo_lens
    As in `Forest.from_block_tables`.
scale : float, optional
    Factor of q.k; ``1 / sqrt(head_dim)`` when not given.

Returns
-------
Reference
    ``abs(out - reference.out) <= reference.bound`` holds for a good evaluation.

Examples
--------
>>> import numpy as np
>>> import trunkline as tl
>>> kv = tl.KvCache.interleaved(np.ones((8, 2, 16, 2, 64), np.float32))
>>> reference = tl.reference_attention(np.zeros((1, 8, 64), np.float32), kv, ([0, 1], [3]), [9])
>>> reference.out.shape, round(float(reference.out[0, 0, 0]), 6)
((1, 8, 64), 1.0)
)");
}

}  // namespace trunkline::python
