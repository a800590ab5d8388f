// What the benchmark measures with, on a CUDA device.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "common/grid.hpp"
#include "common/scalar.hpp"
#include "common/synthetic_batch.hpp"
#include "cuda/meter.hpp"
#include "cuda/problem.hpp"
#include "cuda/readers.hpp"
#include "trunkline/error.hpp"

namespace trunkline::tools::cuda {
namespace {

class CudaTools : public testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) GTEST_SKIP() << "no CUDA device";
  }
};

std::vector<std::uint16_t> to_host(const void* data, std::size_t count) {
  std::vector<std::uint16_t> values(count);
  check(cudaMemcpy(values.data(), data, count * 2, cudaMemcpyDeviceToHost), "cudaMemcpy");
  return values;
}

TEST_F(CudaTools, RandomDataIsNormalAndPoisonIsWhereNoTokenIs) {
  const SyntheticBatch batch(paths_of(make_case(3, 40, 5)), {1}, 16, PageOrder::random, 1, 2);
  for (KvLayout layout : {KvLayout::nhd, KvLayout::hnd}) {
    const DeviceProblem problem({{4, 2}, 64, 16, DType::float16, layout}, batch, 1, 7);
    const auto values =
        to_host(problem.pages().data, static_cast<std::size_t>(problem.pages().page_bytes() * batch.num_pages() / 2));
    const KvView& kv = problem.kv();
    double squares = 0;
    std::int64_t finite = 0;
    for (std::int64_t page = 0; page < batch.num_pages(); ++page) {
      for (int slot = 0; slot < 16; ++slot) {
        const bool used = slot < batch.page_tokens[static_cast<std::size_t>(page)];
        for (const KvView::Plane& plane : {kv.k, kv.v}) {
          for (int head = 0; head < 2; ++head) {
            const std::int64_t offset = static_cast<const std::uint16_t*>(plane.data) -
                                        reinterpret_cast<const std::uint16_t*>(problem.pages().data);
            const std::int64_t at =
                offset + page * plane.page_stride + slot * plane.token_stride + head * plane.head_stride;
            for (int i = 0; i < 64; ++i) {
              const float value = from_float16_bits(values[static_cast<std::size_t>(at + i)]);
              EXPECT_EQ(std::isnan(value), !used);
              if (used) squares += static_cast<double>(value) * value, ++finite;
            }
          }
        }
      }
    }
    EXPECT_EQ(finite, (32 + 3 * 13) * 2 * 2 * 64);
    EXPECT_NEAR(squares / static_cast<double>(finite), 1, 0.1);
  }
}

TEST_F(CudaTools, ResultsNotWrittenAreFound) {
  const SyntheticBatch batch(paths_of(make_case(3, 40, 5)), {1}, 16, PageOrder::random, 1);
  DeviceProblem problem({{4, 2}, 64, 16, DType::bfloat16}, batch, 1, 7);
  EXPECT_EQ(problem.count_nan(), 3 * 4 * 64 + 3 * 4);
  SampledCheck sampled(problem, batch, 12, 1);
  EXPECT_FALSE(sampled.compare().ok());
  check(cudaMemset(problem.out.data, 0, 3 * 4 * 64 * 2), "cudaMemset");
  check(cudaMemset(problem.lse.data, 0, 3 * 4 * 4), "cudaMemset");
  EXPECT_EQ(problem.count_nan(), 0);
  EXPECT_FALSE(sampled.compare().ok());
  EXPECT_EQ(sampled.compare().rows, 12);
}

TEST_F(CudaTools, ElementsOf32BitsAreRefused) {
  const SyntheticBatch batch(paths_of(make_case(1, 0, 5)), {1}, 16, PageOrder::random, 1);
  EXPECT_THROW(DeviceProblem({{4, 2}, 64, 16, DType::float32}, batch, 1, 7), Error);
}

/// Every reader ends, whatever the shapes, and takes a time that the memory's bandwidth allows.
TEST_F(CudaTools, ReadersReadEveryShape) {
  Meter meter;
  for (const auto& [page_size, head_dim, heads] :
       {std::tuple{16, 128, 8}, {16, 64, 3}, {1, 128, 2}, {7, 128, 2}, {64, 128, 1}, {1024, 128, 4}, {96, 256, 2}}) {
    for (KvLayout layout : {KvLayout::nhd, KvLayout::hnd}) {
      const SyntheticBatch batch(paths_of(make_case(13, 300, 17)), {1}, page_size, PageOrder::random, 1, 3);
      const DeviceProblem problem({{heads, heads}, head_dim, page_size, DType::bfloat16, layout}, batch, 1, 7);
      std::vector<PageTokens> pages;
      for (std::int32_t page = 0; page < batch.num_pages(); ++page) {
        if (const int tokens = batch.page_tokens[static_cast<std::size_t>(page)]; tokens > 0) {
          pages.push_back({page, tokens});
        }
      }
      const PageReader reader(problem.pages(), pages);
      EXPECT_FALSE(reader.methods().empty());
      for (const ReadMethod method : reader.methods()) {
        SCOPED_TRACE(testing::Message() << to_string(method) << ", page " << page_size << ", head_dim " << head_dim);
        const Graph graph = meter.capture([&] { reader.enqueue(method, meter.stream()); });
        std::vector<double> samples;
        meter.cold(graph, samples);
        meter.warm(graph, samples);
        meter.collect();
        ASSERT_EQ(samples.size(), 2u);
        for (double seconds : samples) EXPECT_GT(seconds, 1e-7);
      }
    }
  }
}

}  // namespace
}  // namespace trunkline::tools::cuda
