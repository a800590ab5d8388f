// One function per part of the module, and what the parts share.
#pragma once

#include <nanobind/nanobind.h>

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
  nb::object k, v;  // v is none for one array that holds both
  const void *k_address = nullptr, *v_address = nullptr;
  bool writable = false;

  /// Throws Error(invalid_argument) when the memory of an array went elsewhere, as far as its library tells.
  void check_memory() const;
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
