// append_kv and copy_kv on a CUDA device write what they write on the CPU, to the byte.
#include <algorithm>
#include <numeric>
#include <random>

#include "exec/cuda_device.hpp"
#include "exec/expect_error.hpp"

namespace trunkline::test {
namespace {

struct CacheForm {
  const char* name;
  DType dtype;
  int page_size, heads, head_dim;
  std::int64_t padding;     // elements after each row, token and page
  std::int64_t misaligned;  // elements before the first
};

class CudaKvOps : public ::testing::TestWithParam<CacheForm> {
 protected:
  static constexpr std::int64_t pages = 40, tokens = 1000;

  void SetUp() override {
    const Backend cuda = backends()[0];
    if (!cuda.available) GTEST_SKIP() << cuda.detail;
    const CacheForm form = GetParam();
    const auto size = size_of(form.dtype);
    view =
        KvView::separate(nullptr, nullptr, form.dtype, KvLayout::nhd, pages, form.page_size, form.heads, form.head_dim);
    for (KvView::Plane* plane : {&view.k, &view.v}) {
      plane->head_stride = form.head_dim + form.padding;
      plane->token_stride = form.heads * plane->head_stride + form.padding;
      plane->page_stride = form.page_size * plane->token_stride + form.padding;
    }
    row_stride = form.heads * form.head_dim + form.padding;
    cache.resize(static_cast<std::size_t>(2 * pages * view.k.page_stride + 64) * size);
    rows.resize(static_cast<std::size_t>(2 * tokens * row_stride + 64) * size);
    std::mt19937 random(5);
    for (auto* bytes : {&cache, &rows}) {
      std::ranges::generate(*bytes, [&] { return static_cast<std::byte>(random()); });
    }
  }

  KvView cache_at(std::byte* memory, Device device) const {
    KvView result = view;
    const auto size = static_cast<std::int64_t>(size_of(view.dtype));
    result.k.data = memory + GetParam().misaligned * size;
    result.v.data = memory + (GetParam().misaligned + pages * view.k.page_stride) * size;
    result.device = device;
    return result;
  }
  TensorView rows_at(std::byte* memory, int which, Device device) const {
    const auto size = static_cast<std::int64_t>(size_of(view.dtype));
    return {memory + (GetParam().misaligned + which * tokens * row_stride) * size,
            view.dtype,
            device,
            3,
            {tokens, GetParam().heads, GetParam().head_dim},
            {row_stride, GetParam().head_dim, 1}};
  }
  std::vector<std::int64_t> distinct_slots(unsigned seed) const {
    std::vector<std::int64_t> slots(static_cast<std::size_t>(pages) * static_cast<std::size_t>(view.page_size));
    std::iota(slots.begin(), slots.end(), 0);
    std::shuffle(slots.begin(), slots.end(), std::mt19937(seed));
    slots.resize(std::min<std::size_t>(slots.size(), tokens));
    for (std::size_t i = 3; i < slots.size(); i += 7) slots[i] = -1 - static_cast<std::int64_t>(i);
    return slots;
  }

  KvView view;
  std::int64_t row_stride = 0;
  std::vector<std::byte> cache, rows;
};

TEST_P(CudaKvOps, AppendFromHostAndFromDeviceSlots) {
  const std::vector<std::int64_t> slots = distinct_slots(1);
  std::vector<std::byte> expected = cache;
  append_kv(cache_at(expected.data(), {}), rows_at(rows.data(), 0, {}), rows_at(rows.data(), 1, {}), slots);
  const DeviceArray device_rows(rows), device_slots(slots);
  const TensorView k = rows_at(device_rows.data(), 0, cuda_device), v = rows_at(device_rows.data(), 1, cuda_device);
  const DeviceArray by_host(cache), by_device(cache);
  append_kv(cache_at(by_host.data(), cuda_device), k, v, slots);
  append_kv(cache_at(by_device.data(), cuda_device), k, v, device_slots.as<std::int64_t>(),
            static_cast<std::int64_t>(slots.size()));
  EXPECT_EQ(by_host.read<std::byte>(cache.size()), expected);
  EXPECT_EQ(by_device.read<std::byte>(cache.size()), expected);
}

TEST_P(CudaKvOps, ACapturedAppendFollowsTheSlotsOnTheDevice) {
  const DeviceArray device_rows(rows), device_cache(cache), device_slots(distinct_slots(1));
  TestStream stream;
  const TensorView k = rows_at(device_rows.data(), 0, cuda_device), v = rows_at(device_rows.data(), 1, cuda_device);
  const auto count = static_cast<std::int64_t>(distinct_slots(1).size());
  const Graph graph(stream, [&] {
    append_kv(cache_at(device_cache.data(), cuda_device), k, v, device_slots.as<std::int64_t>(), count, stream);
  });
  std::vector<std::byte> expected = cache;
  for (const unsigned seed : {1u, 2u}) {
    std::vector<std::int64_t> slots = distinct_slots(seed);
    append_kv(cache_at(expected.data(), {}), rows_at(rows.data(), 0, {}), rows_at(rows.data(), 1, {}), slots);
    slots[3] = pages * view.page_size;  // beyond the cache: skipped
    const_cast<DeviceArray&>(device_slots).upload(std::as_bytes(std::span(slots)));
    graph.replay(stream);
    stream.wait();
    EXPECT_EQ(device_cache.read<std::byte>(cache.size()), expected);
  }
}

TEST_P(CudaKvOps, CopiesRunInOrder) {
  std::mt19937 random(9);
  std::vector<PageCopy> copies;
  for (int i = 0; i < 600; ++i) {  // many collide: chains, cycles, pages written twice
    const auto src = static_cast<std::int32_t>(random() % pages);
    const auto dst = static_cast<std::int32_t>((src + 1 + random() % (pages - 1)) % pages);
    copies.push_back({src, dst, static_cast<std::int32_t>(random() % (static_cast<unsigned>(view.page_size) + 1))});
  }
  std::vector<std::byte> expected = cache;
  copy_kv(cache_at(expected.data(), {}), copies);
  const DeviceArray device_cache(cache), captured(cache);
  TestStream stream;
  copy_kv(cache_at(device_cache.data(), cuda_device), copies, stream);
  stream.wait();
  EXPECT_EQ(device_cache.read<std::byte>(cache.size()), expected);
  const Graph graph(stream, [&] { copy_kv(cache_at(captured.data(), cuda_device), copies, stream); });
  graph.replay(stream);
  stream.wait();
  EXPECT_EQ(captured.read<std::byte>(cache.size()), expected);
}

TEST_P(CudaKvOps, WhatIsRefusedHasWrittenNothing) {
  const DeviceArray device_rows(rows), device_cache(cache);
  const KvView kv = cache_at(device_cache.data(), cuda_device);
  const TensorView k = rows_at(device_rows.data(), 0, cuda_device), v = rows_at(device_rows.data(), 1, cuda_device);
  const std::int64_t beyond = pages * view.page_size;
  const std::vector<std::int64_t> slots{0, beyond};
  expect_error([&] { append_kv(kv, k, v, slots); },
               "invalid_argument: slots[1]: expected less than num_pages * page_size = " + std::to_string(beyond) +
                   ", got " + std::to_string(beyond));
  const std::vector<std::int64_t> good{0, 1};
  expect_error([&] { append_kv(kv, rows_at(rows.data(), 0, {}), v, good); },
               "invalid_argument: k.device: expected cuda:0, got cpu");
  expect_error([&] { append_kv(kv, k, rows_at(rows.data(), 1, cuda_device), good); },
               "invalid_argument: v.data: expected memory of cuda:0, got host memory");
  expect_error([&] { append_kv(kv, k, v, good.data(), 2); },
               "invalid_argument: slots: expected memory of cuda:0, got host memory");
  const std::vector<PageCopy> copies{{0, 1, 1}, {1, 40, 1}};
  expect_error([&] { copy_kv(kv, copies); }, "invalid_argument: copies[1].dst: expected a page in [0, 40), got 40");
  EXPECT_EQ(device_cache.read<std::byte>(cache.size()), cache);
}

INSTANTIATE_TEST_SUITE_P(Forms, CudaKvOps,
                         ::testing::Values(CacheForm{"Vectors16", DType::bfloat16, 16, 2, 64, 0, 0},
                                           CacheForm{"Vectors8", DType::float16, 16, 3, 20, 4, 4},
                                           CacheForm{"Vectors4", DType::float32, 4, 2, 7, 3, 1},
                                           CacheForm{"Vectors2", DType::bfloat16, 32, 2, 33, 5, 1},
                                           CacheForm{"OneTokenPages", DType::bfloat16, 1, 2, 64, 0, 0}),
                         [](const auto& form) { return std::string(form.param.name); });

}  // namespace
}  // namespace trunkline::test
