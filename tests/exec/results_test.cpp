// End to end, against the double-precision reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <tuple>

#include "exec/batch.hpp"

namespace trunkline::test {
namespace {

std::string legal(std::string name) {
  std::ranges::replace_if(name, [](unsigned char c) { return !std::isalnum(c); }, '_');
  return name;
}

// Every corner case with every strategy, and with every SIMD target this machine has.
using Case = std::tuple<std::size_t, std::string>;  // index of the corner case, SIMD target
class Results : public ::testing::TestWithParam<Case> {
 protected:
  static Batch batch(std::size_t index, Strategy strategy, DType dtype) {
    BatchSpec spec;
    spec.requests = corner_cases(16)[index].requests;
    spec.strategy = strategy;
    spec.q_dtype = spec.kv_dtype = dtype;
    return Batch(spec);
  }
};

TEST_P(Results, EveryStrategyAgreesWithTheReference) {
  const auto& [index, target] = GetParam();
  for (const Strategy strategy : {Strategy::automatic, Strategy::unshared, Strategy::two_phase, Strategy::hydragen}) {
    for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
      Batch b = batch(index, strategy, dtype);
      compute(b, {.num_threads = 2, .simd_target = target, .device = {}});
      EXPECT_TRUE(b.matches_reference()) << to_string(strategy) << ", " << to_string(dtype);
    }
  }
}

// A cost model under which sharing and splitting always pay: the plans that these small batches do not get otherwise.
DeviceSpec eager_device() {
  DeviceSpec device = DeviceSpec::generic_cpu(16);
  device.wide.item_seconds = device.narrow.item_seconds = device.merge_seconds = 1e-12;
  device.launch_seconds = device.phase_seconds = 0;
  device.read_bandwidth = 1e7;
  device.worker_bandwidth = 1e6;
  device.partial_bandwidth = 1e15;
  return device;
}

TEST_P(Results, SplitAndSharedAsMuchAsPossible) {
  const auto& [index, target] = GetParam();
  Batch b = batch(index, Strategy::automatic, DType::float32);
  compute(b, {.num_threads = 2, .simd_target = target, .device = eager_device()});
  EXPECT_TRUE(b.matches_reference());
}

INSTANTIATE_TEST_SUITE_P(Corners, Results,
                         ::testing::Combine(::testing::Range<std::size_t>(0, corner_cases(16).size()),
                                            ::testing::ValuesIn(simd_targets())),
                         [](const auto& test) {
                           return legal(corner_cases(16)[std::get<0>(test.param)].name) + "_" +
                                  legal(std::get<1>(test.param));
                         });

std::vector<RequestSpec> shared_requests(int page_size, int requests) {
  std::vector<RequestSpec> result;
  for (int r = 0; r < requests; ++r) {
    result.push_back({{{0, 5}, {1 + r, 2}}, 6 * page_size + 1 + r % page_size, 1 + r % 2});
  }
  return result;
}

TEST(ResultShapes, GroupSizes1To8AndHeadDims) {
  for (int group = 1; group <= 8; ++group) {
    BatchSpec spec;
    spec.requests = shared_requests(8, 6);
    spec.page_size = 8;
    spec.num_kv_heads = 2;
    spec.num_qo_heads = 2 * group;
    spec.head_dim = std::array{1, 7, 33, 64, 80, 128, 200, 256}[group - 1];
    spec.kv_dtype = group % 2 ? DType::bfloat16 : DType::float32;
    spec.q_dtype = group % 3 ? DType::bfloat16 : DType::float32;
    Batch b(spec);
    compute(b, {.num_threads = 2, .simd_target = {}, .device = {}});
    EXPECT_TRUE(b.matches_reference()) << "group " << group << ", head_dim " << spec.head_dim;
  }
}

TEST(ResultShapes, PageSizes) {
  for (const int page_size : {1, 3, 64, 1024}) {
    BatchSpec spec;
    spec.page_size = page_size;
    spec.requests = page_size == 1024 ? std::vector<RequestSpec>{{{{0, 1}}, 700}, {{{0, 1}, {1, 1}}, 1025}}
                                      : shared_requests(page_size, 5);
    Batch b(spec);
    compute(b);
    EXPECT_TRUE(b.matches_reference()) << "page_size " << page_size;
  }
}

TEST(ResultShapes, EveryFormOfKv) {
  for (const KvForm form :
       {KvForm::interleaved_nhd, KvForm::interleaved_hnd, KvForm::separate_nhd, KvForm::separate_hnd, KvForm::padded}) {
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
      BatchSpec spec;
      spec.requests = shared_requests(16, 6);
      spec.form = form;
      spec.kv_dtype = dtype;
      Batch b(spec);
      compute(b, {.num_threads = 2, .simd_target = {}, .device = {}});
      EXPECT_TRUE(b.matches_reference()) << static_cast<int>(form) << ", " << to_string(dtype);
    }
  }
}

TEST(ResultShapes, SlicesOfAPackedQkv) {
  BatchSpec spec;
  spec.requests = shared_requests(16, 6);
  spec.packed_qkv = true;
  Batch b(spec);
  compute(b);
  EXPECT_TRUE(b.matches_reference());
}

TEST(ResultShapes, WithoutLse) {
  BatchSpec spec;
  spec.requests = shared_requests(16, 6);
  Batch b(spec);
  compute(b, {}, /*with_lse=*/false);
  EXPECT_TRUE(b.matches_reference(/*with_lse=*/false));
}

TEST(ResultShapes, LargeScores) {
  BatchSpec spec;
  spec.requests = shared_requests(16, 6);
  spec.magnitude = 1000;
  Batch b(spec);
  compute(b);
  EXPECT_TRUE(b.matches_reference());
}

// The large shape the whole machinery is for: more than 256 rows share a node.
TEST(ResultShapes, LargeBatch) {
  BatchSpec spec;
  spec.num_qo_heads = 8;
  spec.num_kv_heads = 2;
  spec.kv_dtype = spec.q_dtype = DType::bfloat16;
  for (int r = 0; r < 150; ++r)
    spec.requests.push_back({{{0, 20}, {1 + r / 10, 4}, {100 + r, 2}}, 25 * 16 + 1 + r % 16});
  Batch b(spec);
  compute(b, {.num_threads = 2, .simd_target = {}, .device = {}});
  EXPECT_TRUE(b.matches_reference());
}

}  // namespace
}  // namespace trunkline::test
