// What the CUDA kernels do not compute is refused by name, before anything is written.
#include <gtest/gtest.h>

#include <string>

#include "grids/device.hpp"

namespace trunkline::grids {
namespace {

constexpr Capacity capacity{4, 4, 4};

AttentionConfig config(int group_size, int head_dim, DType q_dtype, DType kv_dtype) {
  AttentionConfig result;
  result.num_qo_heads = 2 * group_size;
  result.num_kv_heads = 2;
  result.head_dim = head_dim;
  result.page_size = 16;
  result.q_dtype = q_dtype;
  result.kv_dtype = kv_dtype;
  return result;
}

std::string refusal(const AttentionConfig& refused, const std::string& kernel) {
  ExecutionOptions options;
  options.kernel = kernel;
  try {
    const Attention attention(refused, capacity, {DeviceKind::cuda, 0}, options);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported) << error.what();
    return error.what();
  }
  return "not refused";
}

TEST(CudaRefusalsShort, HeadDimsAndDTypes) {
  for (const Target& target : targets({})) {
    SCOPED_TRACE(target.name);
    for (const int head_dim : {1, 8, 63, 72, 200}) {
      const std::string message = refusal(config(4, head_dim, DType::bfloat16, DType::bfloat16), target.name);
      EXPECT_NE(message.find("head_dim"), std::string::npos) << message;
      EXPECT_NE(message.find(std::to_string(head_dim)), std::string::npos) << message;
    }
    EXPECT_NE(refusal(config(4, 128, DType::float32, DType::float32), target.name).find("float32"), std::string::npos);
    const std::string mixed = refusal(config(4, 128, DType::float16, DType::bfloat16), target.name);
    EXPECT_NE(mixed.find("float16"), std::string::npos) << mixed;
  }
}

TEST(CudaRefusalsShort, HopperKernelHasTwoHeadDims) {
  for (const int head_dim : {16, 80, 96, 192, 256}) {
    const std::string message = refusal(config(4, head_dim, DType::bfloat16, DType::bfloat16), "sm90");
    EXPECT_NE(message.find("sm90"), std::string::npos) << message;
  }
}

TEST(CudaRefusalsShort, UnknownKernel) {
  const std::string message = refusal(config(4, 128, DType::bfloat16, DType::bfloat16), "sm70");
  EXPECT_NE(message.find("sm70"), std::string::npos) << message;
}

TEST(CudaRefusalsShort, MemoryOfTheHost) {
  std::vector<std::uint16_t> host(2 * 16 * 2 * 64), rows(4 * 64);
  const AttentionConfig covered = config(2, 64, DType::float16, DType::float16);
  const Device device{DeviceKind::cuda, 0};
  const Attention attention(covered, capacity, device);
  Workspace workspace(attention);
  const std::vector<std::int32_t> table{0}, seq_lens{3};
  attention.plan(Forest::from_block_tables(BlockTables::dense(table, 1, 1), seq_lens, 16), workspace, stream());
  const KvView kv = KvView::interleaved(host.data(), DType::float16, KvLayout::nhd, 1, 16, 2, 64, device);
  const TensorView view = contiguous(rows.data(), DType::float16, {1, 4, 64, 0}, 3, device);
  try {
    attention.run(workspace, view, kv, view, {}, stream());
    ADD_FAILURE() << "not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument) << error.what();
  }
}

TEST(CudaRefusalsShort, PagesOutOfBounds) {
  // The table names page 7 of a cache that has two.
  const AttentionConfig covered = config(2, 64, DType::float16, DType::float16);
  const Device device{DeviceKind::cuda, 0};
  const Attention attention(covered, capacity, device);
  Workspace workspace(attention);
  const std::vector<std::int32_t> table{7}, seq_lens{3};
  attention.plan(Forest::from_block_tables(BlockTables::dense(table, 1, 1), seq_lens, 16), workspace, stream());
  const DeviceArray memory(std::vector<std::byte>(2 * 2 * 16 * 2 * 64 * 2)), q(std::vector<std::byte>(4 * 64 * 2)),
      out(std::vector<std::byte>(4 * 64 * 2));
  const KvView kv = KvView::interleaved(memory.data(), DType::float16, KvLayout::nhd, 2, 16, 2, 64, device);
  const TensorView q_view = contiguous(q.data(), DType::float16, {1, 4, 64, 0}, 3, device);
  const TensorView out_view = contiguous(out.data(), DType::float16, {1, 4, 64, 0}, 3, device);
  try {
    attention.run(workspace, q_view, kv, out_view, {}, stream());
    ADD_FAILURE() << "not refused";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("7"), std::string::npos) << error.what();
  }
}

TEST(CudaRefusalsShort, MoreThanTheCapacity) {
  const AttentionConfig covered = config(2, 64, DType::float16, DType::float16);
  const Attention attention(covered, capacity, {DeviceKind::cuda, 0});
  Workspace workspace(attention);
  const std::vector<std::int32_t> table{0, 1, 2, 3, 4}, seq_lens(5, 16);
  try {
    attention.plan(Forest::from_block_tables(BlockTables::dense(table, 5, 1), seq_lens, 16), workspace, stream());
    ADD_FAILURE() << "not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::capacity_exceeded) << error.what();
    EXPECT_NE(std::string(error.what()).find("5"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace trunkline::grids
