#include "trunkline/tensor.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "trunkline/error.hpp"
#include "trunkline/kv_view.hpp"

namespace trunkline {
namespace {

using testing::HasSubstr;

std::string message_of(auto&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(DType, NamesRoundTrip) {
  for (DType dtype : {DType::float32, DType::float16, DType::bfloat16, DType::float8_e4m3}) {
    EXPECT_EQ(dtype_from_string(to_string(dtype)), dtype);
  }
  EXPECT_EQ(dtype_from_string("bf16"), DType::bfloat16);
  EXPECT_EQ(dtype_from_string("f32"), DType::float32);
  EXPECT_THAT(message_of([] { dtype_from_string("int8"); }), HasSubstr("dtype: expected float32"));
}

TEST(Tensor, ContiguousStridesAreRowMajor) {
  float data[24];
  const TensorView view = contiguous(data, DType::float32, {2, 3, 4}, 3);
  EXPECT_EQ(view.strides[0], 12);
  EXPECT_EQ(view.strides[1], 4);
  EXPECT_EQ(view.strides[2], 1);
  EXPECT_FALSE(view.empty());
  EXPECT_THAT(message_of([&] { contiguous(data, DType::float32, {2, -1}, 2); }), HasSubstr("shape"));
  EXPECT_THAT(message_of([&] { contiguous(data, DType::float32, {}, 5); }), HasSubstr("rank"));
}

TEST(Device, HasAName) {
  EXPECT_EQ(to_string(Device{}), "cpu");
  EXPECT_EQ(to_string(Device{DeviceKind::cuda, 2}), "cuda:2");
}

TEST(KvView, LayoutsPutTheSameElementWhereTheyShould) {
  constexpr int pages = 3, page_size = 4, heads = 2, dim = 8;
  std::vector<float> data(2 * pages * page_size * heads * dim);
  const KvView nhd = KvView::interleaved(data.data(), DType::float32, KvLayout::nhd, pages, page_size, heads, dim);
  const KvView hnd = KvView::interleaved(data.data(), DType::float32, KvLayout::hnd, pages, page_size, heads, dim);
  // [page, 2, slot, head, dim] and [page, 2, head, slot, dim]
  EXPECT_EQ(nhd.k.page_stride, 2 * page_size * heads * dim);
  EXPECT_EQ(nhd.k.token_stride, heads * dim);
  EXPECT_EQ(nhd.k.head_stride, dim);
  EXPECT_EQ(hnd.k.token_stride, dim);
  EXPECT_EQ(hnd.k.head_stride, page_size * dim);
  EXPECT_EQ(static_cast<float*>(nhd.v.data) - static_cast<float*>(nhd.k.data), page_size * heads * dim);
  EXPECT_NO_THROW(nhd.validate());
  EXPECT_NO_THROW(hnd.validate());
  EXPECT_NO_THROW(
      KvView::separate(data.data(), data.data(), DType::float32, KvLayout::nhd, pages, page_size, heads, dim)
          .validate());
}

TEST(KvView, RefusesWhatCannotBeRight) {
  std::vector<float> data(4096);
  auto view = [&] { return KvView::separate(data.data(), data.data(), DType::float32, KvLayout::nhd, 2, 4, 2, 8); };
  KvView kv = view();
  kv.page_size = 0;
  EXPECT_THAT(message_of([&] { kv.validate(); }), HasSubstr("kv.page_size: expected 1 to 1024 tokens, got 0"));
  kv = view();
  kv.head_dim = 257;
  EXPECT_THAT(message_of([&] { kv.validate(); }), HasSubstr("kv.head_dim: expected 1 to 256, got 257"));
  kv = view();
  kv.v.data = nullptr;
  EXPECT_THAT(message_of([&] { kv.validate(); }), HasSubstr("kv.v: expected a pointer to V, got null"));
  kv = view();
  kv.k.token_stride = 8;  // heads would overlap the next token
  EXPECT_THAT(message_of([&] { kv.validate(); }), HasSubstr("kv.k strides"));
  kv = view();
  kv.k.page_stride *= 3;  // padded pages are fine
  EXPECT_NO_THROW(kv.validate());
}

}  // namespace
}  // namespace trunkline
