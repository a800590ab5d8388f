#include "binding/binding.hpp"

NB_MODULE(_core, m) {
  using namespace trunkline::python;
  nanobind::set_leak_warnings(false);  // what an engine still holds when the interpreter ends is its own affair
  m.doc() = "Exact attention for batches of requests that share prefixes.";
  bind_errors(m);
  bind_cache(m);
  bind_forest(m);
  bind_plan(m);
  bind_kv(m);
  bind_attention(m);
  bind_numerics(m);
}
