#include "trunkline/attention.hpp"

#include <nanobind/stl/optional.h>

#include <algorithm>
#include <mutex>
#include <string>

#include "binding/binding.hpp"
#include "trunkline/error.hpp"

namespace trunkline::python {
namespace {

struct PyAttention {
  Attention attention;
  nb::object own;  // its own PyWorkspace, made on first use

  explicit PyAttention(Attention made) : attention(std::move(made)) {}

  nb::handle own_workspace() {
    if (!own.is_valid()) own = nb::cast(new PyWorkspace(attention), nb::rv_policy::take_ownership);
    return own;
  }
  nb::handle workspace(nb::handle given) {
    if (given.is_none()) return own_workspace();
    if (nb::isinstance<PyWorkspace>(given)) return given;
    throw nb::type_error("workspace: expected a Workspace or None");
  }
};

void make_workspace(PyWorkspace* self, const PyAttention& attention, nb::handle memory) {
  if (memory.is_none()) {
    new (self) PyWorkspace(attention.attention);
    return;
  }
  const Array array = read_array(memory, "memory", Access::write);
  if (!(array.device == attention.attention.device())) {
    throw Error(ErrorCode::invalid_argument, "memory.device", to_string(attention.attention.device()),
                to_string(array.device));
  }
  std::int64_t stride = 1;
  for (int i = array.rank - 1; i >= 0; --i) {
    if (array.shape[i] > 1 && array.strides[i] != stride) {
      throw Error(ErrorCode::invalid_argument, "memory.strides", "a contiguous array",
                  std::to_string(array.strides[i]) + " in dimension " + std::to_string(i));
    }
    stride *= array.shape[i];
  }
  const std::size_t bytes = static_cast<std::size_t>(array.size()) * array.dtype.bits / 8;
  new (self) PyWorkspace(attention.attention, memory, array, bytes);
}

nb::object plan(PyAttention& self, const PyForest& forest, nb::handle workspace, nb::handle stream) {
  const nb::handle holder = self.workspace(workspace);
  auto& place = *nb::inst_ptr<PyWorkspace>(holder);
  const Stream on = read_stream(stream, self.attention.device());
  {
    nb::gil_scoped_release released;
    const std::scoped_lock lock(place.mutex);
    const std::shared_lock reading(forest.mutex);
    self.attention.plan(forest.forest, place.workspace, on);
    place.num_requests = forest.forest.num_requests();
  }
  return nb::cast(PyPlan(holder));
}

nb::object run(PyAttention& self, nb::handle q, const PyKvCache& kv, nb::object out, nb::object lse, nb::handle stream,
               nb::handle workspace, nb::handle seq_lens) {
  auto& place = *nb::inst_ptr<PyWorkspace>(self.workspace(workspace));
  const Device device = self.attention.device();
  const Array queries = read_array(q, "q", Access::read);
  const TensorView q_view = view_of(queries, "q");
  kv.check_memory();
  if (out.is_none()) {
    out = allocate_like(q, {q_view.shape.data(), static_cast<std::size_t>(q_view.rank)}, /*float32=*/false, "out");
  }
  const bool with_lse = !lse.is_none() && lse.ptr() != Py_False;
  if (lse.ptr() == Py_True) {
    const std::array<std::int64_t, 2> shape{q_view.shape[0], q_view.shape[1]};
    lse = allocate_like(q, shape, /*float32=*/true, "lse");
  }
  const Array outputs = read_array(out, "out", Access::write);
  const TensorView out_view = view_of(outputs, "out");
  Array sums, lengths;
  TensorView lse_view;
  if (with_lse) {
    sums = read_array(lse, "lse", Access::write);
    lse_view = lse_view_of(sums, "lse");
  }
  if (!seq_lens.is_none()) {
    lengths = read_array(seq_lens, "seq_lens", Access::read);
    check_integers<std::int32_t>(lengths, device, "seq_lens");
    if (lengths.rank != 1 || (lengths.strides[0] != 1 && lengths.shape[0] > 1)) {
      throw Error(ErrorCode::invalid_argument, "seq_lens", "one contiguous dimension",
                  std::to_string(lengths.rank) + " dimensions");
    }
  }
  const Stream on = read_stream(stream, device, q);
  {
    nb::gil_scoped_release released;
    const std::scoped_lock lock(place.mutex);
    if (!seq_lens.is_none() && lengths.shape[0] < place.num_requests) {
      throw Error(ErrorCode::invalid_argument, "seq_lens.shape",
                  "[" + std::to_string(place.num_requests) + "], the planned requests",
                  "[" + std::to_string(lengths.shape[0]) + "]");
    }
    self.attention.run(place.workspace, q_view, kv.view, out_view, lse_view, on,
                       seq_lens.is_none() ? nullptr : static_cast<const std::int32_t*>(lengths.data));
  }
  return with_lse ? nb::object(nb::make_tuple(out, lse)) : out;
}

constexpr const char* attention_doc =
    R"(Exact attention of a batch over paged KV: plan once per decode step, run once per layer.

Immutable and safe to share by threads. A workspace holds the plan; without one of the caller's, the attention's own is
used.

Parameters
----------
config : AttentionConfig
max_requests, max_table_width : int
    Every batch of at most so many requests, of at most so many pages each, can be planned and run.
max_query_tokens : int, optional
    Sum of ``qo_lens``; `max_requests` when not given, which is enough for decode.
device : str or torch.device
    ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
num_threads : int
    CPU: threads that compute, the caller's included.
simd_target : str
    CPU: one of `simd_targets`; the best one when empty.
device_spec : DeviceSpec, optional
    What to plan with; numbers shipped for the device when not given.
kernel : {"", "sm90", "sm80"}
    CUDA; the best one when empty.
num_ctas : int
    CUDA: CTAs of the grid; 0 is as many as the device holds.

Raises
------
ValueError
    Naming the argument.
RuntimeError
    A device, kernel or feature that this build or machine does not have.

Examples
--------
Two requests of 20 and 30 tokens that share page 7:

>>> import numpy as np
>>> import trunkline as tl
>>> config = tl.AttentionConfig(num_qo_heads=8, num_kv_heads=2, head_dim=64, page_size=16, dtype="float32")
>>> attention = tl.Attention(config, max_requests=8, max_table_width=4)
>>> kv = tl.KvCache.interleaved(np.ones((8, 2, 16, 2, 64), np.float32))
>>> tables = np.array([[7, 1], [7, 2]], np.int32)
>>> attention.plan(tl.Forest.from_block_tables(tables, [20, 30], page_size=16)).strategy
'auto'
>>> out, lse = attention.run(np.zeros((2, 8, 64), np.float32), kv, lse=True)
>>> out.shape, float(out[0, 0, 0]), np.exp(lse[:, 0]).round()
((2, 8, 64), 1.0, array([20., 30.], dtype=float32))
)";

constexpr const char* run_doc = R"(Attention of the planned batch. The KV of the new tokens is in the pages already.

Nothing is converted or copied; rows beyond the planned query tokens are neither read nor written. On CUDA the work is
enqueued, and may be captured into a graph when `out` (and `lse`) are given.

Parameters
----------
q : array [sum(qo_lens) or more, num_qo_heads, head_dim]
    config.dtype, contiguous head_dim, in the caller's order. There is no gradient: a tensor that requires one, out and
    lse too, is refused where PyTorch records.
kv : KvCache
out : array like q, optional
    Allocated like q when not given.
lse : True or float32 array [sum(qo_lens) or more, num_qo_heads], optional
    The log-sum-exp, natural logarithm; allocated when True. A row that sees no token gives out = 0 and lse = -inf.
stream : optional
    CUDA: a stream of PyTorch or CuPy, or its address; it means nothing on the CPU. None: the current stream of q's
    library.
workspace : Workspace, optional
    Where the plan is; the attention's own when not given.
seq_lens : int32 [num_requests] on the device, optional
    At most the planned ones: rows see nothing beyond.

Returns
-------
out, or (out, lse) when lse is asked for.

Raises
------
ValueError
    Wrong device, dtype, shape, strides, overlap, page; before anything is written.
RuntimeError
    The device failed.)";

}  // namespace

void bind_attention(nb::module_& m) {
  nb::class_<PyAttention> attention(m, "Attention", attention_doc);
  nb::class_<PyWorkspace> workspace(m, "Workspace", R"(The memory of one stream in flight: plan, block tables, partials.

Parameters
----------
attention : Attention
memory : array, optional
    The caller's, on the attention's device, at least `Attention.workspace_bytes` bytes, contiguous, aligned to 64 bytes
    (256 on CUDA); kept alive.

Raises
------
ValueError
    Wrong device, too small, misaligned.

Examples
--------
>>> import trunkline as tl
>>> config = tl.AttentionConfig(num_qo_heads=8, num_kv_heads=2, head_dim=64, page_size=16)
>>> attention = tl.Attention(config, max_requests=8, max_table_width=4)
>>> workspace = tl.Workspace(attention)
>>> attention.plan(tl.Forest.from_block_tables(([0, 1], [3]), [9], page_size=16), workspace)
Plan(1 items, 0 merges, auto)
)");
  workspace
      .def("__init__", &make_workspace, nb::arg("attention"), nb::arg("memory") = nb::none(),
           nb::sig("def __init__(self, attention: Attention, memory: trunkline.typing.Array | None = None) -> None"))
      .def_prop_ro(
          "plan", [](nb::handle_t<PyWorkspace> self) { return PyPlan(self); }, nb::sig("def plan(self) -> Plan"),
          "A view of the plan made last; empty before the first. It changes with the next one.");
  attention
      .def(
          "__init__",
          [](PyAttention* self, const AttentionConfig& config, int max_requests, int max_table_width,
             std::optional<int> max_query_tokens, nb::handle device, int num_threads, const std::string& simd_target,
             const std::optional<DeviceSpec>& device_spec, const std::string& kernel, int num_ctas) {
            const Capacity capacity{max_requests, max_query_tokens.value_or(max_requests), max_table_width};
            new (self) PyAttention(Attention(config, capacity, read_device(device),
                                             {num_threads, simd_target, device_spec, kernel, num_ctas}));
          },
          nb::arg("config"), nb::kw_only(), nb::arg("max_requests"), nb::arg("max_table_width"),
          nb::arg("max_query_tokens") = nb::none(), nb::arg("device") = "cpu", nb::arg("num_threads") = 1,
          nb::arg("simd_target") = "", nb::arg("device_spec") = nb::none(), nb::arg("kernel") = "",
          nb::arg("num_ctas") = 0,
          nb::sig("def __init__(self, config: AttentionConfig, *, max_requests: int, max_table_width: int, "
                  "max_query_tokens: int | None = None, device: trunkline.typing.Device = 'cpu', num_threads: int = 1, "
                  "simd_target: str = '', device_spec: DeviceSpec | None = None, kernel: str = '', num_ctas: int = 0) "
                  "-> None"))
      .def("plan", &plan, nb::arg("forest"), nb::arg("workspace") = nb::none(), nb::arg("stream") = nb::none(),
           nb::sig("def plan(self, forest: Forest, workspace: Workspace | None = None, stream: "
                   "trunkline.typing.Stream = None) -> Plan"),
           R"(Plans the forest into the workspace; once per decode step.

Parameters
----------
forest : Forest
    It may change or go after the call.
workspace : Workspace, optional
    The attention's own when not given.
stream : optional
    CUDA: that of the runs that follow. None: the current stream of PyTorch, else of CuPy.

Returns
-------
Plan
    A view of the workspace's: it shows the next one after the next call.

Raises
------
ValueError
    A forest beyond the capacity (it says by how much) or of another page size, a workspace of another attention, a
    stream that captures. The workspace keeps its last plan.)")
      .def("run", &run, nb::arg("q"), nb::arg("kv"), nb::arg("out") = nb::none(), nb::arg("lse") = nb::none(),
           nb::arg("stream") = nb::none(), nb::kw_only(), nb::arg("workspace") = nb::none(),
           nb::arg("seq_lens") = nb::none(),
           nb::sig(
               "def run(self, q: trunkline.typing.Array, kv: KvCache, out: trunkline.typing.Array | None = None, lse: "
               "trunkline.typing.Array | bool | None = None, stream: trunkline.typing.Stream = None, *, workspace: "
               "Workspace | None = None, seq_lens: trunkline.typing.Array | None = None) -> typing.Any"),
           run_doc)
      .def_prop_ro(
          "workspace", [](PyAttention& self) { return nb::borrow(self.own_workspace()); },
          nb::sig("def workspace(self) -> Workspace"), "Its own.")
      .def_prop_ro("workspace_bytes", [](const PyAttention& self) { return self.attention.workspace_bytes(); })
      .def_prop_ro(
          "config", [](const PyAttention& self) { return &self.attention.config(); }, nb::rv_policy::reference_internal)
      .def_prop_ro(
          "device_spec", [](const PyAttention& self) { return &self.attention.device_spec(); },
          nb::rv_policy::reference_internal)
      .def_prop_ro("device", [](const PyAttention& self) { return to_string(self.attention.device()); })
      .def_prop_ro(
          "kernel", [](const PyAttention& self) { return self.attention.kernel(); },
          "The kernel that runs: \"cpu/avx3\", \"cuda/sm90\".")
      .def_prop_ro(
          "lse_bound_factor", [](const PyAttention& self) { return self.attention.lse_bound_factor(); },
          "How many times the reference's lse_bound its lse may be off: 1; 1 + head_dim / 32 for cuda/sm90.")
      .def_prop_ro("num_threads", [](const PyAttention& self) { return self.attention.num_threads(); })
      .def_prop_ro("num_ctas", [](const PyAttention& self) { return self.attention.num_ctas(); });
}

}  // namespace trunkline::python
