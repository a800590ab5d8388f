#include <gtest/gtest.h>

#include "trunkline/config.hpp"

namespace trunkline {
namespace {

TEST(DeviceSpec, ShippedSpecsAreValid) {
  EXPECT_NO_THROW(DeviceSpec::h200().validate());
  for (const int workers : {1, 2, 64}) EXPECT_NO_THROW(DeviceSpec::generic_cpu(workers).validate());
}

TEST(DeviceSpec, H200SaysWhatWasMeasured) {
  const DeviceSpec spec = DeviceSpec::h200();
  EXPECT_EQ(spec.num_workers, 132);
  EXPECT_TRUE(spec.lanes_overlap);
  EXPECT_EQ(spec.read_bandwidth, 4.3e12);
  EXPECT_EQ(spec.wide.flops, 680e12);
  // The narrow lane hides behind its own reads up to its last row.
  EXPECT_GE(spec.narrow.flops, spec.narrow.max_rows * spec.read_bandwidth);
}

TEST(DeviceSpec, GenericCpuGrowsWithItsWorkers) {
  const DeviceSpec one = DeviceSpec::generic_cpu(1), eight = DeviceSpec::generic_cpu(8);
  EXPECT_EQ(eight.num_workers, 8);
  EXPECT_EQ(eight.read_bandwidth, 8 * one.read_bandwidth);
  EXPECT_EQ(eight.worker_bandwidth, one.worker_bandwidth);
  EXPECT_EQ(eight.wide.flops, 8 * one.wide.flops);
  EXPECT_EQ(one.narrow.max_rows, 8);
  EXPECT_EQ(one.wide.max_rows, 256);
}

TEST(DeviceSpec, NoWorkersIsRefusedByTheField) {
  try {
    DeviceSpec::generic_cpu(0).validate();
    FAIL() << "accepted";
  } catch (const std::exception& error) {
    EXPECT_STREQ(error.what(), "invalid_argument: device.num_workers: expected 1 or more, got 0");
  }
}

}  // namespace
}  // namespace trunkline
