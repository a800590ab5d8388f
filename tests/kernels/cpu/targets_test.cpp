// The table of SIMD targets.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <set>
#include <string>

#include "kernels/cpu/kernels.hpp"

namespace trunkline::test {
namespace {

using kernels::cpu::targets;

TEST(CpuTargets, NeverEmptyAndNamedOnce) {
  ASSERT_FALSE(targets().empty());
  std::set<std::string> names;
  for (const auto& target : targets()) EXPECT_TRUE(names.insert(target.name).second) << target.name;
}

TEST(CpuTargets, BestFirst) {
  for (std::size_t i = 1; i < targets().size(); ++i) {
    EXPECT_GE(targets()[i - 1].float_lanes, targets()[i].float_lanes);
  }
}

TEST(CpuTargets, CodeOfATargetIsCompiledForIt) {
  for (const auto& target : targets()) {
    std::string name = target.compiled_for();
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
    EXPECT_EQ(name, target.name);
  }
}

TEST(CpuTargets, EntriesAreDistinctFunctions) {
  for (std::size_t i = 0; i < targets().size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      EXPECT_NE(targets()[i].attend, targets()[j].attend);
      EXPECT_NE(targets()[i].merge, targets()[j].merge);
    }
  }
}

#if defined(__x86_64__) && defined(__GNUC__)
TEST(CpuTargets, WhatTheMachineHasIsListed) {
  std::set<std::string> names;
  for (const auto& target : targets()) names.insert(target.name);
  EXPECT_EQ(names.count("avx2"), __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 1u : 0u);
  EXPECT_EQ(names.count("avx3"), __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") ? 1u : 0u);
}
#endif

}  // namespace
}  // namespace trunkline::test
