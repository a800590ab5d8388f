// AttentionConfig, DeviceSpec, Planner, Plan, and what this build has.
#include "trunkline/plan.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <shared_mutex>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "binding/binding.hpp"
#include "trunkline/system.hpp"

namespace trunkline::python {
namespace {

void bind_config(nb::module_& m) {
  nb::class_<AttentionConfig>(m, "AttentionConfig", R"(Immutable facts of an attention layer.

Parameters
----------
num_qo_heads, num_kv_heads : int
    num_kv_heads divides num_qo_heads.
head_dim : int
    1 to 256.
page_size : int
    Tokens of a page, 1 to 1024.
dtype : str or dtype
    Of q and out: float32, float16 or bfloat16, by name or as PyTorch or NumPy write it.
kv_dtype : str or dtype, optional
    Of K and V; `dtype` when not given.
sm_scale : float, optional
    Factor of q.k; ``1 / sqrt(head_dim)`` when not given.
strategy : {"auto", "unshared", "two_phase", "hydragen"}
    How sharing is used; the named ones are published methods on the same kernels.
sliding_window, logits_soft_cap, alibi, attention_sinks
    Not built yet: anything but the defaults is refused by name.

Raises
------
ValueError
    Naming the field.
RuntimeError
    For what is not built yet.

Examples
--------
>>> import trunkline as tl
>>> config = tl.AttentionConfig(num_qo_heads=32, num_kv_heads=8, head_dim=128, page_size=16)
>>> config.dtype, config.group_size, config.kv_bytes_per_token
('bfloat16', 4, 4096)
)")
      .def(
          "__init__",
          [](AttentionConfig* self, int num_qo_heads, int num_kv_heads, int head_dim, int page_size, nb::handle dtype,
             nb::handle kv_dtype, std::optional<float> sm_scale, const std::string& strategy, int sliding_window,
             float logits_soft_cap, bool alibi, bool attention_sinks) {
            AttentionConfig config;
            config.num_qo_heads = num_qo_heads;
            config.num_kv_heads = num_kv_heads;
            config.head_dim = head_dim;
            config.page_size = page_size;
            config.q_dtype = read_dtype(dtype);
            config.kv_dtype = kv_dtype.is_none() ? config.q_dtype : read_dtype(kv_dtype);
            config.sm_scale = sm_scale;
            config.strategy = strategy_from_string(strategy);
            config.sliding_window = sliding_window;
            config.logits_soft_cap = logits_soft_cap;
            config.alibi = alibi;
            config.attention_sinks = attention_sinks;
            config.validate();
            new (self) AttentionConfig(config);
          },
          nb::arg("num_qo_heads"), nb::arg("num_kv_heads"), nb::arg("head_dim"), nb::arg("page_size"),
          nb::arg("dtype") = "bfloat16", nb::arg("kv_dtype") = nb::none(), nb::arg("sm_scale") = nb::none(),
          nb::arg("strategy") = "auto", nb::arg("sliding_window") = 0, nb::arg("logits_soft_cap") = 0.0f,
          nb::arg("alibi") = false, nb::arg("attention_sinks") = false,
          nb::sig(
              "def __init__(self, num_qo_heads: int, num_kv_heads: int, head_dim: int, page_size: int, dtype: "
              "trunkline.typing.DType = 'bfloat16', kv_dtype: trunkline.typing.DType | None = None, sm_scale: float "
              "| None = None, strategy: str = 'auto', sliding_window: int = 0, logits_soft_cap: float = 0.0, "
              "alibi: bool = False, attention_sinks: bool = False) -> None"))
      .def_ro("num_qo_heads", &AttentionConfig::num_qo_heads)
      .def_ro("num_kv_heads", &AttentionConfig::num_kv_heads)
      .def_ro("head_dim", &AttentionConfig::head_dim)
      .def_ro("page_size", &AttentionConfig::page_size)
      .def_prop_ro(
          "dtype", [](const AttentionConfig& c) { return to_string(c.q_dtype); }, "Of q and out, by name.")
      .def_prop_ro("kv_dtype", [](const AttentionConfig& c) { return to_string(c.kv_dtype); })
      .def_prop_ro("scale", &AttentionConfig::scale)
      .def_prop_ro("strategy", [](const AttentionConfig& c) { return to_string(c.strategy); })
      .def_prop_ro("group_size", &AttentionConfig::group_size)
      .def_prop_ro("kv_bytes_per_token", &AttentionConfig::kv_bytes_per_token, "K and V, all KV heads.");
}

void bind_device_spec(nb::module_& m) {
  nb::class_<DeviceSpec> spec(m, "DeviceSpec", R"(The device facts that planning needs; see `calibrate`.

Bandwidths in bytes per second, rates in floating-point operations per second, times in seconds.

Examples
--------
>>> import trunkline as tl
>>> spec = tl.DeviceSpec.generic_cpu(num_workers=4)
>>> spec.num_workers
4
)");
  nb::class_<DeviceSpec::Lane>(spec, "Lane", "Items that a worker advances independently of its other lane.")
      .def_rw("max_rows", &DeviceSpec::Lane::max_rows)
      .def_rw("row_granule", &DeviceSpec::Lane::row_granule)
      .def_rw("flops", &DeviceSpec::Lane::flops)
      .def_rw("item_seconds", &DeviceSpec::Lane::item_seconds)
      .def_rw("masked_seconds", &DeviceSpec::Lane::masked_seconds);
  spec.def_static("h200", &DeviceSpec::h200, "One NVIDIA H200.")
      .def_static("generic_cpu", &DeviceSpec::generic_cpu, nb::arg("num_workers"),
                  "A middling server core, times that.")
      .def("validate", &DeviceSpec::validate)
      .def_rw("name", &DeviceSpec::name)
      .def_rw("num_workers", &DeviceSpec::num_workers)
      .def_rw("token_granule", &DeviceSpec::token_granule)
      .def_rw("packed_rows", &DeviceSpec::packed_rows)
      .def_rw("packed_tokens", &DeviceSpec::packed_tokens)
      .def_rw("wide", &DeviceSpec::wide)
      .def_rw("narrow", &DeviceSpec::narrow)
      .def_rw("paired_flops", &DeviceSpec::paired_flops)
      .def_rw("lanes_overlap", &DeviceSpec::lanes_overlap)
      .def_rw("overlap_penalty", &DeviceSpec::overlap_penalty)
      .def_rw("read_bandwidth", &DeviceSpec::read_bandwidth)
      .def_rw("worker_bandwidth", &DeviceSpec::worker_bandwidth)
      .def_rw("partial_bandwidth", &DeviceSpec::partial_bandwidth)
      .def_rw("cache_bytes", &DeviceSpec::cache_bytes)
      .def_rw("merge_seconds", &DeviceSpec::merge_seconds)
      .def_rw("source_seconds", &DeviceSpec::source_seconds)
      .def_rw("phase_seconds", &DeviceSpec::phase_seconds)
      .def_rw("launch_seconds", &DeviceSpec::launch_seconds);
}

nb::dict statistics(const PyPlan& plan) {
  using Fact = std::pair<const char*, std::variant<std::string, std::int64_t, double, bool>>;
  const std::vector<Fact> facts = plan.read([](const Plan& p) {
    const auto size = [](const auto& array) { return static_cast<std::int64_t>(array.size()); };
    const auto count = [&](const auto& predicate) {
      return static_cast<std::int64_t>(std::count_if(p.choices.begin(), p.choices.end(), predicate));
    };
    const auto kept = [](const Plan::NodeChoice& choice) { return choice.kept; };
    const auto shared = [&](const Plan::NodeChoice& choice) { return choice.kept && choice.rows > p.group_size; };
    return std::vector<Fact>{{"strategy", to_string(p.strategy)},
                             {"num_query_tokens", size(p.query_tokens)},
                             {"num_items", size(p.items)},
                             {"num_segments", size(p.segments)},
                             {"num_merges", size(p.merges)},
                             {"num_phases", size(p.phases)},
                             {"num_partial_rows", p.num_partial_rows},
                             {"num_workers", std::int64_t{p.num_workers}},
                             {"shed", p.shed},
                             {"model_seconds", p.model.seconds},
                             {"kv_bytes", p.model.kv_bytes},
                             {"partial_bytes", p.model.partial_bytes},
                             {"operations", p.model.operations},
                             {"num_nodes", size(p.choices)},
                             {"num_nodes_kept", count(kept)},
                             {"num_nodes_shared", count(shared)}};
  });
  nb::dict result;
  for (const auto& [name, value] : facts) result[name] = value;
  return result;
}

// With the forest as it is, and nobody advancing it.
template <class Read>
auto read_with(const PyPlan& plan, const PyForest& forest, const Read& read) {
  return plan.read([&](const Plan& p) {
    const std::shared_lock lock(forest.mutex);
    return read(p, forest.forest);
  });
}

void bind_planner(nb::module_& m) {
  nb::class_<PyPlan>(m, "Plan", R"(Everything a kernel does, decided: of a `Planner`, or the latest of a `Workspace`.

That of a workspace is a view: it changes with the next `Attention.plan` into it, and keeps the workspace alive. Any
thread may look at it. Each call and attribute tells of one plan, for which it waits until no other thread plans or runs
in the workspace.

Examples
--------
>>> import trunkline as tl
>>> config = tl.AttentionConfig(num_qo_heads=8, num_kv_heads=2, head_dim=64, page_size=16)
>>> forest = tl.Forest.from_levels([([0, 4], [0, 4], [0, 1, 2, 3], [64])], page_size=16)
>>> plan = tl.Planner(config).plan(forest)
>>> plan.check(forest)                        # every token is seen exactly once
>>> plan.statistics()["kv_bytes"]             # the 64 tokens are read once for 4 requests
32768
>>> plan.explain(forest).splitlines()[0]
'strategy auto, 1 workers, 2 KV heads, group size 4'
)")
      .def(
          "explain",
          [](const PyPlan& plan, const PyForest& forest) {
            return read_with(plan, forest, [](const Plan& p, const Forest& f) { return p.explain(f); });
          },
          nb::arg("forest"), "The choices for the planned forest and their modelled times, for people.")
      .def(
          "explain_json",
          [](const PyPlan& plan, const PyForest& forest) {
            return read_with(plan, forest, [](const Plan& p, const Forest& f) { return p.explain_json(f); });
          },
          nb::arg("forest"), "The same facts, of every node, as one JSON object.")
      .def(
          "check",
          [](const PyPlan& plan, const PyForest& forest) {
            read_with(plan, forest, [](const Plan& p, const Forest& f) { p.check(f); });
          },
          nb::arg("forest"),
          "Proves that every visible (row, token) is covered and every partial merged exactly once.\n\n"
          "Raises\n------\nRuntimeError\n    Naming the first violation.")
      .def("statistics", &statistics, nb::sig("def statistics(self) -> dict[str, typing.Any]"),
           "Counts, and the model's seconds, bytes and operations.")
      .def_prop_ro("strategy",
                   [](const PyPlan& plan) { return plan.read([](const Plan& p) { return to_string(p.strategy); }); })
      .def_prop_ro("num_items",
                   [](const PyPlan& plan) { return plan.read([](const Plan& p) { return p.items.size(); }); })
      .def_prop_ro("num_merges",
                   [](const PyPlan& plan) { return plan.read([](const Plan& p) { return p.merges.size(); }); })
      .def("__repr__", [](const PyPlan& plan) {
        return plan.read([](const Plan& p) {
          return "Plan(" + std::to_string(p.items.size()) + " items, " + std::to_string(p.merges.size()) + " merges, " +
                 to_string(p.strategy) + ")";
        });
      });

  nb::class_<Planner>(m, "Planner", R"(Makes plans without a device: a pure function of forest, config and device facts.

Parameters
----------
config : AttentionConfig
device_spec : DeviceSpec, optional
    One generic CPU core when not given.

Examples
--------
>>> import trunkline as tl
>>> config = tl.AttentionConfig(num_qo_heads=32, num_kv_heads=8, head_dim=128, page_size=16)
>>> planner = tl.Planner(config, tl.DeviceSpec.h200())
>>> planner.plan(tl.Forest.from_block_tables((range(3), [5, 6]), [9, 3], page_size=16))
Plan(2 items, 0 merges, auto)
)")
      .def(
          "__init__",
          [](Planner* self, const AttentionConfig& config, const std::optional<DeviceSpec>& spec) {
            new (self) Planner(spec.value_or(DeviceSpec::generic_cpu(1)), config);
          },
          nb::arg("config"), nb::arg("device_spec") = nb::none())
      .def(
          "plan",
          [](const Planner& planner, const PyForest& forest) {
            nb::gil_scoped_release released;
            const std::shared_lock lock(forest.mutex);
            return PyPlan(planner.plan(forest.forest));
          },
          nb::arg("forest"))
      .def_prop_ro("config", &Planner::config, nb::rv_policy::reference_internal)
      .def_prop_ro("device_spec", &Planner::device, nb::rv_policy::reference_internal);
}

}  // namespace

void bind_plan(nb::module_& m) {
  bind_config(m);
  bind_device_spec(m);
  bind_planner(m);
  nb::class_<Backend>(m, "Backend", "A backend the project knows.")
      .def_ro("name", &Backend::name)
      .def_ro("built", &Backend::built, "In this build.")
      .def_ro("available", &Backend::available, "And usable on this machine.")
      .def_ro("detail", &Backend::detail, "Why not, or what it found.")
      .def("__repr__", [](const Backend& b) {
        return "Backend(" + b.name + ": " + (b.available ? "available" : "not available") + ", " + b.detail + ")";
      });
  m.def("backends", &backends, "All backends the project knows, best first.");
  m.def("simd_targets", &simd_targets, "SIMD targets of the CPU backend on this machine, best first.");
  m.def(
      "calibrate",
      [](nb::handle device, int num_threads) {
        const Device at = read_device(device);
        nb::gil_scoped_release released;
        return calibrate(at, num_threads);
      },
      nb::arg("device") = "cpu", nb::arg("num_threads") = 1,
      nb::sig("def calibrate(device: trunkline.typing.Device = 'cpu', num_threads: int = 1) -> DeviceSpec"),
      "Measures this machine for the planner; takes seconds and up to 1 GiB.");
  m.attr("__version__") = version();
}

}  // namespace trunkline::python
