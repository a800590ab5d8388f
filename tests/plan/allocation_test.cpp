// plan_into allocates nothing once its memory has grown to a batch.
#include <gtest/gtest.h>

#include "plan/allocation_counter.hpp"
#include "plan/support.hpp"

namespace trunkline {
namespace {

TEST(Allocation, NoneInTheSteadyState) {
  const int nodes[] = {1, 4, 64}, tokens[] = {256, 512, 100};
  const Forest forests[] = {test::prefix_forest(64, 4096, 300, 4), test::tree_forest(nodes, tokens, 4),
                            test::separate_forest(std::vector<std::int32_t>{32768, 10, 0, 5000}, 4)};
  for (const Strategy strategy : {Strategy::automatic, Strategy::unshared, Strategy::two_phase, Strategy::hydragen}) {
    const Planner planner(DeviceSpec::h200(), test::config_of(32, 8, 4, strategy));
    Plan plan;
    for (int round = 0; round < 2; ++round) {
      for (const Forest& forest : forests) planner.plan_into(plan, forest);
    }
    const long long before = test::num_allocations();
    for (const Forest& forest : forests) planner.plan_into(plan, forest);
    EXPECT_EQ(test::num_allocations(), before) << to_string(strategy);
    EXPECT_GT(before, 0);
  }
}

}  // namespace
}  // namespace trunkline
