// The first half of an advance: checks every delta before anything changes.
#pragma once

#include "forest/state.hpp"
#include "trunkline/forest.hpp"

namespace trunkline::forest {

/// Fills scratch.touched with what every named request will be, and the row lists. Throws invalid_argument.
void check_deltas(const Deltas& deltas, const State& state, Scratch& scratch);

}  // namespace trunkline::forest
