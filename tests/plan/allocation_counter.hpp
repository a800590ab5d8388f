// Counts what this program allocates with operator new.
#pragma once

namespace trunkline::test {

long long num_allocations();

}  // namespace trunkline::test
