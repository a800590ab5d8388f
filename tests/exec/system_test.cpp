#include "trunkline/system.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <string>

#include "exec/batch.hpp"
#include "exec/expect_error.hpp"

namespace trunkline::test {
namespace {

TEST(System, VersionHasThreeNumbers) {
  const std::string text = version();
  EXPECT_EQ(std::ranges::count(text, '.'), 2) << text;
}

TEST(System, BackendsTellWhatThisBuildHas) {
  const auto all = backends();
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].name, "cuda");
  if (!all[0].built) {
    EXPECT_FALSE(all[0].available);
    EXPECT_EQ(all[0].detail, "this build has no CUDA backend");
  }
  EXPECT_EQ(all[1].name, "cpu");
  EXPECT_TRUE(all[1].built);
  EXPECT_TRUE(all[1].available);
  EXPECT_NE(all[1].detail.find(simd_targets().front()), std::string::npos) << all[1].detail;
}

TEST(System, SimdTargetsAreDistinct) {
  const auto names = simd_targets();
  EXPECT_FALSE(names.empty());
  EXPECT_EQ(std::set(names.begin(), names.end()).size(), names.size());
}

TEST(Calibrate, RefusesWhatItCannotMeasure) {
  if (!backends()[0].built) {
    expect_error([] { calibrate({DeviceKind::cuda, 0}, 1); },
                 "unsupported: device: expected cpu, since this build has no CUDA backend, got cuda:0");
  }
  expect_error([] { calibrate({}, 0); }, "invalid_argument: num_threads: expected 1 to 4096, got 0");
}

// Wide bounds: they catch a wrong unit, not a slow machine.
TEST(Calibrate, LargeMeasuresThisMachineWithinSeconds) {
  const auto begin = std::chrono::steady_clock::now();
  const DeviceSpec spec = calibrate({}, 2);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  EXPECT_LT(seconds, 60);
  EXPECT_NO_THROW(spec.validate());
  EXPECT_EQ(spec.num_workers, 2);
  EXPECT_GT(spec.read_bandwidth, 1e8);
  EXPECT_LT(spec.read_bandwidth, 1e13);
  EXPECT_LE(spec.worker_bandwidth, spec.read_bandwidth);
  EXPECT_GT(spec.wide.flops, 1e8);
  EXPECT_LT(spec.wide.flops, 1e14);
  EXPECT_GT(spec.narrow.flops, 1e8);
  EXPECT_LT(spec.narrow.item_seconds, 1e-2);
  EXPECT_LT(spec.merge_seconds, 1e-2);
  EXPECT_LT(spec.phase_seconds, 1e-1);
  EXPECT_LT(spec.launch_seconds, 1e-1);

  BatchSpec shape;
  shape.requests = {{{{0, 3}, {1, 1}}, 50}, {{{0, 3}, {2, 1}}, 60, 2}};
  Batch batch(shape);
  compute(batch, {.num_threads = 2, .simd_target = {}, .device = spec});
  EXPECT_TRUE(batch.matches_reference());
}

}  // namespace
}  // namespace trunkline::test
