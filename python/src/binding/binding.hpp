// One function per part of the module, and what the parts share.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <utility>
#include <vector>

#include "binding/arrays.hpp"
#include "trunkline/attention.hpp"
#include "trunkline/forest.hpp"
#include "trunkline/kv_view.hpp"
#include "trunkline/plan.hpp"
#include "trunkline/prefix_tree.hpp"

namespace trunkline::python {

void bind_errors(nb::module_& m);
void bind_cache(nb::module_& m);  // PagePool, PrefixTree
void bind_tree_batch(nb::module_& m, nb::class_<PrefixTree>& tree);
void bind_forest(nb::module_& m);     // Forest
void bind_plan(nb::module_& m);       // AttentionConfig, DeviceSpec, Planner, Plan, what the build has
void bind_kv(nb::module_& m);         // KvCache, append_kv, copy_kv
void bind_attention(nb::module_& m);  // Attention, Workspace
void bind_numerics(nb::module_& m);   // merge, the reference

/// Adds the slots of the request's tokens [begin, end), which it has.
void add_slots(const PrefixTree& tree, RequestId request, std::int32_t begin, std::int32_t end,
               std::vector<std::int64_t>& slots);

/// Plans read a forest with the interpreter's lock released, while another thread may want to advance it. Who waits for
/// the mutex does not hold the interpreter's lock; `advance` holds both, so what holds that one alone may read too.
struct PyForest {
  Forest forest;
  mutable std::shared_mutex mutex;

  explicit PyForest(Forest made) : forest(std::move(made)) {}
};

/// A KvView and the arrays it lies in.
struct PyKvCache {
  KvView view;
  BoundArray k, v;  // v is unset for one array that holds both
  bool writable = false;

  void check_memory() const {
    k.check_memory("kv.k");
    v.check_memory("kv.v");
  }
};

/// A workspace's plan changes under the mutex, with the interpreter's lock released. Who waits for the mutex does not
/// hold that lock, so who has the mutex may take it.
struct PyWorkspace {
  BoundArray memory;  // the caller's, if any
  Workspace workspace;
  mutable std::mutex mutex;
  int num_requests = 0;

  explicit PyWorkspace(const Attention& attention) : workspace(attention) {}
  PyWorkspace(const Attention& attention, nb::handle object, const Array& array, std::size_t bytes)
      : memory(object, array), workspace(attention, array.data, bytes) {}
};

/// A plan of its own, or a view of a workspace's.
class PyPlan {
 public:
  explicit PyPlan(Plan plan) : own_(std::make_unique<const Plan>(std::move(plan))) {}
  explicit PyPlan(nb::handle workspace)
      : holder_(nb::borrow(workspace)), workspace_(nb::inst_ptr<PyWorkspace>(workspace)) {}

  /// Reads one plan: nobody makes another of it meanwhile. Without the interpreter's lock.
  template <class Read>
  auto read(const Read& read) const {
    nb::gil_scoped_release released;
    if (own_ != nullptr) return read(*own_);
    const std::scoped_lock lock(workspace_->mutex);
    return read(workspace_->workspace.plan());
  }

 private:
  std::unique_ptr<const Plan> own_;
  nb::object holder_;                       // of the workspace
  const PyWorkspace* workspace_ = nullptr;  // where there is no plan of its own
};

/// Block tables of an argument: int32 [num_requests, max_pages], or the pair (indptr, indices).
class TablesArgument {
 public:
  TablesArgument(nb::handle object, const char* name);
  const BlockTables& tables() const noexcept { return tables_; }

 private:
  Array dense_;
  std::optional<Integers<std::int32_t>> indptr_, indices_;
  BlockTables tables_;
};

/// A tuple's element, with the right number of them checked first.
nb::tuple read_tuple(nb::handle object, std::size_t size, const char* name, const char* members);

}  // namespace trunkline::python
