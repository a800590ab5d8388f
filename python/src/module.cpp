#include "binding/binding.hpp"

NB_MODULE(_core, m) {
  using namespace trunkline::python;
  m.doc() = "Exact attention for batches of requests that share prefixes.";
  bind_errors(m);
  bind_cache(m);
  bind_forest(m);
  bind_plan(m);
  bind_kv(m);
  bind_attention(m);
  bind_numerics(m);
}
