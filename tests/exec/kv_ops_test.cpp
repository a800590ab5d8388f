#include "trunkline/kv_ops.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <vector>

#include "exec/expect_error.hpp"

namespace trunkline {
namespace {

using test::expect_error;

constexpr std::int64_t pages = 5;
constexpr int page_size = 4, heads = 3, dim = 6;
constexpr float untouched = -1.0f;

// A cache of floats in one of several forms, all of it `untouched`.
struct Cache {
  enum Form { nhd, hnd, separate, padded };

  explicit Cache(Form form) : memory(4096, untouched) {
    const DType f32 = DType::float32;
    view = form == hnd ? KvView::interleaved(memory.data(), f32, KvLayout::hnd, pages, page_size, heads, dim)
                       : KvView::interleaved(memory.data(), f32, KvLayout::nhd, pages, page_size, heads, dim);
    if (form == separate || form == padded) {
      view = KvView::separate(memory.data(), memory.data() + 2048, f32, form == padded ? KvLayout::hnd : KvLayout::nhd,
                              pages, page_size, heads, dim);
    }
    if (form == padded) {
      view.k.token_stride = view.v.token_stride = dim + 2;
      view.k.head_stride = view.v.head_stride = page_size * (dim + 2) + 1;
      view.k.page_stride = view.v.page_stride = heads * view.k.head_stride + 3;
    }
  }

  float& at(const KvView::Plane& plane, std::int64_t page, std::int64_t slot, std::int64_t head, std::int64_t i) {
    return static_cast<float*>(
        plane.data)[page * plane.page_stride + slot * plane.token_stride + head * plane.head_stride + i];
  }

  std::vector<float> memory;
  KvView view;
};

// Rows [tokens, heads, dim] within wider tokens, each element telling where it belongs.
struct Rows {
  explicit Rows(std::int64_t tokens, float base, std::int64_t head_stride = dim)
      : memory(static_cast<std::size_t>(tokens * heads * head_stride + tokens * 7)) {
    view = {memory.data(), DType::float32, {}, 3, {tokens, heads, dim}, {heads * head_stride + 7, head_stride, 1}};
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t h = 0; h < heads; ++h) {
        for (std::int64_t i = 0; i < dim; ++i) {
          memory[t * view.strides[0] + h * head_stride + i] = value(base, t, h, i);
        }
      }
    }
  }
  static float value(float base, std::int64_t t, std::int64_t h, std::int64_t i) {
    return base + static_cast<float>(100 * t + 10 * h + i);
  }
  std::vector<float> memory;
  TensorView view;
};

std::int64_t count_touched(const Cache& cache) {
  std::int64_t touched = 0;
  for (const float x : cache.memory) touched += x != untouched;
  return touched;
}

class KvOps : public ::testing::TestWithParam<Cache::Form> {};

TEST_P(KvOps, AppendWritesTheSlotsAndNothingElse) {
  for (const std::int64_t head_stride : {dim, dim + 1}) {
    Cache cache(GetParam());
    const Rows k(4, 1000, head_stride), v(4, 5000, head_stride);
    const std::vector<std::int64_t> slots{2 * page_size + 3, -1, 0, pages * page_size - 1};
    append_kv(cache.view, k.view, v.view, slots);
    for (std::int64_t t = 0; t < 4; ++t) {
      if (slots[t] < 0) continue;
      for (int h = 0; h < heads; ++h) {
        for (int i = 0; i < dim; ++i) {
          const std::int64_t page = slots[t] / page_size, slot = slots[t] % page_size;
          EXPECT_EQ(cache.at(cache.view.k, page, slot, h, i), Rows::value(1000, t, h, i));
          EXPECT_EQ(cache.at(cache.view.v, page, slot, h, i), Rows::value(5000, t, h, i));
        }
      }
    }
    EXPECT_EQ(count_touched(cache), 2 * 3 * heads * dim);
  }
}

TEST_P(KvOps, OfTwoTokensInOneSlotTheLaterStays) {
  Cache cache(GetParam());
  const Rows k(2, 1000), v(2, 5000);
  append_kv(cache.view, k.view, v.view, std::vector<std::int64_t>{7, 7});
  EXPECT_EQ(cache.at(cache.view.k, 1, 3, 0, 0), Rows::value(1000, 1, 0, 0));
}

TEST_P(KvOps, CopyTakesTheFirstTokensOfAPage) {
  for (const std::int32_t tokens : {0, 1, page_size - 1, page_size}) {
    Cache cache(GetParam());
    const Rows k(page_size, 1000), v(page_size, 5000);
    std::vector<std::int64_t> slots;
    for (int s = 0; s < page_size; ++s) slots.push_back(3 * page_size + s);
    append_kv(cache.view, k.view, v.view, slots);
    copy_kv(cache.view, std::vector<PageCopy>{{3, 1, tokens}});
    for (int s = 0; s < page_size; ++s) {
      for (int h = 0; h < heads; ++h) {
        for (int i = 0; i < dim; ++i) {
          const bool copied = s < tokens;
          EXPECT_EQ(cache.at(cache.view.k, 1, s, h, i), copied ? Rows::value(1000, s, h, i) : untouched);
          EXPECT_EQ(cache.at(cache.view.v, 1, s, h, i), copied ? Rows::value(5000, s, h, i) : untouched);
        }
      }
    }
    EXPECT_EQ(count_touched(cache), 2 * heads * dim * (page_size + tokens));
  }
}

TEST_P(KvOps, CopiesRunInOrder) {
  Cache cache(GetParam());
  cache.at(cache.view.k, 0, 0, 0, 0) = 5;
  copy_kv(cache.view, std::vector<PageCopy>{{0, 1, 1}, {1, 2, 1}});
  EXPECT_EQ(cache.at(cache.view.k, 2, 0, 0, 0), 5);
}

INSTANTIATE_TEST_SUITE_P(Forms, KvOps, ::testing::Values(Cache::nhd, Cache::hnd, Cache::separate, Cache::padded));

TEST(KvOps, SixteenBitElements) {
  std::vector<std::uint16_t> memory(2 * 2 * 2 * 1 * 3, 0), k{1, 2, 3}, v{4, 5, 6};
  const KvView view = KvView::interleaved(memory.data(), DType::bfloat16, KvLayout::nhd, 2, 2, 1, 3);
  append_kv(view, contiguous(k.data(), DType::bfloat16, {1, 1, 3}, 3),
            contiguous(v.data(), DType::bfloat16, {1, 1, 3}, 3), std::vector<std::int64_t>{3});
  const std::vector<std::uint16_t> expected{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 4, 5, 6};
  EXPECT_EQ(memory, expected);
}

TEST(KvOps, NothingToDo) {
  Cache cache(Cache::nhd);
  append_kv(cache.view, contiguous(nullptr, DType::float32, {0, heads, dim}, 3),
            contiguous(nullptr, DType::float32, {0, heads, dim}, 3), {});
  copy_kv(cache.view, {});
  EXPECT_EQ(count_touched(cache), 0);
}

// Each call is wrong in its last entry alone, and must not have written the first.
class KvOpsErrors : public ::testing::Test {
 protected:
  ~KvOpsErrors() override { EXPECT_EQ(count_touched(cache), 0); }
  void append(const TensorView& k_rows, const TensorView& v_rows, std::vector<std::int64_t> slots) {
    append_kv(cache.view, k_rows, v_rows, slots);
  }
  void copy(PageCopy wrong) { copy_kv(cache.view, std::vector<PageCopy>{{0, 1, 1}, wrong}); }

  Cache cache{Cache::nhd};
  Rows k{2, 1000}, v{2, 5000};
};

TEST_F(KvOpsErrors, SlotBeyondTheCache) {
  expect_error([&] { append(k.view, v.view, {0, 20}); },
               "invalid_argument: slots[1]: expected less than num_pages * page_size = 20, got 20");
}

TEST_F(KvOpsErrors, SlotsByPointer) {
  const auto append_slots = [&](const std::int64_t* slots, std::int64_t num_tokens) {
    return [=, this] { append_kv(cache.view, k.view, v.view, slots, num_tokens); };
  };
  const std::int64_t slots[] = {0, 20};
  expect_error(append_slots(slots, 2),
               "invalid_argument: slots[1]: expected less than num_pages * page_size = 20, got 20");
  expect_error(append_slots(slots, -1), "invalid_argument: num_tokens: expected 0 or more, got -1");
  expect_error(append_slots(nullptr, 1), "invalid_argument: slots: expected a pointer to num_tokens slots, got null");
}

TEST_F(KvOpsErrors, FewerRowsThanSlots) {
  expect_error([&] { append(k.view, v.view, {0, 1, 2}); },
               "invalid_argument: k.shape: expected [3 or more, 3, 6], got [2, 3, 6]");
}

TEST_F(KvOpsErrors, ShapesOfRows) {
  TensorView wrong = v.view;
  wrong.shape[1] = 2;
  expect_error([&] { append(k.view, wrong, {0, 1}); },
               "invalid_argument: v.shape: expected [2 or more, 3, 6], got [2, 2, 6]");
  wrong = v.view;
  wrong.rank = 2;
  expect_error([&] { append(k.view, wrong, {0, 1}); },
               "invalid_argument: v.shape: expected [2 or more, 3, 6], got [2, 3]");
  wrong = v.view;
  wrong.strides[2] = 2;
  expect_error([&] { append(k.view, wrong, {0, 1}); },
               "invalid_argument: v.strides[2]: expected 1 (contiguous head_dim), got 2");
  wrong = v.view;
  wrong.data = nullptr;
  expect_error([&] { append(k.view, wrong, {0, 1}); },
               "invalid_argument: v.data: expected a pointer to the elements, got null");
}

TEST_F(KvOpsErrors, DtypesAndDevices) {
  TensorView wrong = k.view;
  wrong.dtype = DType::float16;
  expect_error([&] { append(wrong, v.view, {0, 1}); }, "invalid_argument: k.dtype: expected float32, got float16");
  wrong = k.view;
  wrong.device = {DeviceKind::cuda, 1};
  expect_error([&] { append(wrong, v.view, {0, 1}); }, test::wrong_device("k", "cuda:1"));
  KvView gpu = cache.view;
  gpu.device = {DeviceKind::cuda, 0};
  if (!backends()[0].built) {
    expect_error([&] { append_kv(gpu, k.view, v.view, std::vector<std::int64_t>{0, 1}); },
                 test::wrong_device("kv", "cuda:0"));
    expect_error([&] { copy_kv(gpu, std::vector<PageCopy>{{0, 1, 1}}); }, test::wrong_device("kv", "cuda:0"));
  }
  KvView fp8 = cache.view;
  fp8.dtype = DType::float8_e4m3;
  expect_error([&] { copy_kv(fp8, std::vector<PageCopy>{{0, 1, 1}}); },
               "unsupported: kv.dtype: expected float32, float16 or bfloat16, since fp8 is not built yet, got "
               "float8_e4m3");
}

TEST_F(KvOpsErrors, Copies) {
  expect_error([&] { copy({5, 1, 1}); }, "invalid_argument: copies[1].src: expected a page in [0, 5), got 5");
  expect_error([&] { copy({-1, 1, 1}); }, "invalid_argument: copies[1].src: expected a page in [0, 5), got -1");
  expect_error([&] { copy({1, 5, 1}); }, "invalid_argument: copies[1].dst: expected a page in [0, 5), got 5");
  expect_error([&] { copy({1, -2, 1}); }, "invalid_argument: copies[1].dst: expected a page in [0, 5), got -2");
  expect_error([&] { copy({2, 2, 1}); }, "invalid_argument: copies[1].dst: expected another page than src, got 2");
  expect_error([&] { copy({1, 2, 5}); }, "invalid_argument: copies[1].num_tokens: expected 0 to page_size = 4, got 5");
  expect_error([&] { copy({1, 2, -1}); },
               "invalid_argument: copies[1].num_tokens: expected 0 to page_size = 4, got -1");
}

TEST_F(KvOpsErrors, Memory) {
  KvView view = cache.view;
  view.v.data = nullptr;
  expect_error([&] { copy_kv(view, {}); }, "invalid_argument: kv.v: expected a pointer to V, got null");
  view = cache.view;
  view.k.data = reinterpret_cast<std::byte*>(view.k.data) + 2;
  expect_error([&] { copy_kv(view, {}); },
               "invalid_argument: kv.k: expected an address aligned to float32, got 2 bytes past one");
}

}  // namespace
}  // namespace trunkline
