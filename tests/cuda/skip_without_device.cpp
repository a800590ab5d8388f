// Skips the whole program where no kernel can run.
#include <gtest/gtest.h>

#include <algorithm>

#include "trunkline/system.hpp"

namespace trunkline::grids {
namespace {

struct Device : testing::Environment {
  void SetUp() override {
    const auto all = backends();
    const auto cuda = std::find_if(all.begin(), all.end(), [](const Backend& one) { return one.name == "cuda"; });
    if (!cuda->available) GTEST_SKIP() << "CUDA: " << cuda->detail;
  }
};

[[maybe_unused]] const testing::Environment* const device = testing::AddGlobalTestEnvironment(new Device);

}  // namespace
}  // namespace trunkline::grids
