// The emulated device itself: what it computes, and that it notices what it should.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <vector>

#include "emulated_cuda.hpp"
#include "emulator/products.hpp"
#include "kernels/sm90/ptx.cuh"
#include "kernels/sm90/wgmma.cuh"

namespace trunkline::emulator {
namespace {

namespace sm90 = kernels::sm90;
namespace ptx = kernels::sm90::ptx;

void run_warps(unsigned num_warps, const std::function<void()>& kernel) {
  run({.grid = 1, .block = num_warps * warp_size, .shared_bytes = 64 * 1024}, kernel);
}

TEST(Emulator, LanesExchange) {
  std::array<int, 32> sums{}, from_7{};
  std::array<unsigned, 32> odd{};
  run_warps(1, [&] {
    const auto at = static_cast<std::size_t>(lane());
    int sum = lane();
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    sums[at] = sum;
    from_7[at] = __shfl_sync(~0u, lane() * 3, 7);
    odd[at] = __ballot_sync(~0u, lane() % 2 == 1);
  });
  for (std::size_t i = 0; i < 32; ++i) {
    EXPECT_EQ(sums[i], 31 * 32 / 2);
    EXPECT_EQ(from_7[i], 21);
    EXPECT_EQ(odd[i], 0xAAAAAAAAu);
  }
}

TEST(Emulator, EveryThreadOfEveryBlockRunsOnce) {
  std::vector<int> seen(std::size_t{3} * 40 * 96, 0);
  run({.grid = {40, 3}, .block = 96}, [&] {
    const std::size_t block = blockIdx.y * gridDim.x + blockIdx.x;
    __syncthreads();
    ++seen[block * 96 + threadIdx.x];
  });
  EXPECT_EQ(seen, std::vector<int>(seen.size(), 1));
}

TEST(Emulator, BarriersHandOverWhatWasWritten) {
  std::vector<int> got;
  run_warps(2, [&] {
    auto* const words = reinterpret_cast<int*>(dynamic_shared_memory());
    auto* const full = reinterpret_cast<std::uint64_t*>(dynamic_shared_memory() + 1024);
    if (threadIdx.x == 0) {
      ptx::barrier_init(full, 1);
      ptx::barrier_init(full + 1, 32);
    }
    __syncthreads();
    for (std::uint32_t round = 0; round < 100; ++round) {
      if (threadIdx.x < 32) {
        if (round > 0) ptx::barrier_wait(full + 1, (round - 1) % 2);
        __syncwarp();
        if (lane() == 0) {
          words[0] = static_cast<int>(round);
          ptx::barrier_arrive(full);
        }
      } else {
        ptx::barrier_wait(full, round % 2);
        if (lane() == 5) got.push_back(words[0]);
        ptx::barrier_arrive(full + 1);
      }
    }
  });
  ASSERT_EQ(got.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(got[static_cast<std::size_t>(i)], i);
}

/// A box of the copy engine, read back as an operand: rows of 64 elements.
TEST(Emulator, BoxesLieAsProductsReadThem) {
  constexpr int rows = 64, columns = 64;
  alignas(16) std::array<std::uint16_t, rows * columns> memory;
  for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<std::uint16_t>(i);
  CUtensorMap map;
  const cuuint64_t sizes[2] = {columns, rows}, strides[1] = {columns * 2};
  const cuuint32_t box[2] = {columns, rows}, steps[2] = {1, 1};
  ASSERT_EQ(encode_tiled(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, memory.data(), sizes, strides, box, steps,
                         CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                         CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
            CUDA_SUCCESS);
  run_warps(1, [&] {
    auto* const full = reinterpret_cast<std::uint64_t*>(dynamic_shared_memory() + 32 * 1024);
    if (lane() == 0) {
      ptx::barrier_init(full, 1);
      ptx::barrier_expect(full, sizeof(memory));
      start_box(dynamic_shared_memory(), &map, full, {0, 32});  // the lower half lies outside
    }
    __syncwarp();
    ptx::barrier_wait(full, 0);
    const std::uint32_t at = shared_address(dynamic_shared_memory());
    for (int row = lane(); row < rows; row += 32) {
      for (int k = 0; k < columns; ++k) {
        const std::uint16_t there = row < 32 ? memory[static_cast<std::size_t>((row + 32) * columns + k)] : 0;
        const std::uint64_t k_major = sm90::operand(at + static_cast<std::uint32_t>(k / 16 * 32), 16, 1024);
        ASSERT_EQ(operand_element<false>(k_major, row, k % 16), there) << row << ' ' << k;
        ASSERT_EQ(operand_element<true>(sm90::operand(at, 16, 1024), k, row), there) << row << ' ' << k;
      }
    }
  });
}

void run_clusters(const std::function<void()>& kernel) {
  run({.grid = 4, .block = 2 * warp_size, .shared_bytes = 8 * 1024, .persistent = true, .cluster = 2}, kernel);
}

/// Each CTA brings half of what both of a cluster get, and each tells the other that it has read it.
TEST(Emulator, CtasOfAClusterReachEachOther) {
  constexpr int columns = 64, rows = 8, rounds = 20;
  alignas(16) std::array<std::uint16_t, 2 * rows * columns> memory;
  for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<std::uint16_t>(i);
  CUtensorMap map;
  const cuuint64_t sizes[2] = {columns, 2 * rows}, strides[1] = {columns * 2};
  const cuuint32_t box[2] = {columns, rows}, steps[2] = {1, 1};
  ASSERT_EQ(encode_tiled(&map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, memory.data(), sizes, strides, box, steps,
                         CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE,
                         CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
            CUDA_SUCCESS);
  std::array<int, 4> good{};
  run_clusters([&] {
    auto* const tile = dynamic_shared_memory();
    auto* const full = reinterpret_cast<std::uint64_t*>(tile + 4096);
    const unsigned rank = ptx::cluster_rank();
    if (threadIdx.x == 0) {
      ptx::barrier_init(full, 1);
      ptx::barrier_init(full + 1, 2 * warp_size);
    }
    ptx::arrive_cluster();
    ptx::wait_cluster();
    for (std::uint32_t round = 0; round < rounds; ++round) {
      if (threadIdx.x / warp_size == 0) {
        if (round > 0) ptx::barrier_wait(full + 1, (round - 1) % 2);
        __syncwarp();
        if (lane() > 0) continue;
        ptx::barrier_expect(full, 2 * rows * columns * 2);
        start_box_to(3, tile + rank * rows * columns * 2, &map, full, {0, static_cast<int>(rank) * rows});
      } else {
        ptx::barrier_wait(full, round % 2);
        std::uint16_t first, last;  // the last row's chunks are swizzled
        std::memcpy(&first, tile, 2);
        std::memcpy(&last, tile + (2 * rows - 1) * columns * 2 + (7 ^ 7) * 16 + 14, 2);
        if (lane() == 0) good[blockIdx.x] += first == memory.front() && last == memory.back();
        for (unsigned cta = 0; cta < 2; ++cta) ptx::barrier_arrive_remote(ptx::remote_address(full + 1, cta));
      }
    }
    ptx::arrive_cluster();
    ptx::wait_cluster();
  });
  for (const int count : good) EXPECT_EQ(count, rounds);
}

TEST(Emulator, ThreadsThatHaveEndedAreNotWaitedFor) {
  std::array<int, 4> passed{};
  run_clusters([&] {
    ptx::arrive_cluster();
    if (threadIdx.x >= warp_size) return;
    ptx::wait_cluster();
    ptx::arrive_cluster();
    ptx::wait_cluster();
    if (lane() == 0) ++passed[blockIdx.x];
  });
  EXPECT_EQ(passed, (std::array<int, 4>{1, 1, 1, 1}));
}

TEST(Emulator, ProductsAreThereAfterTheWait) {
  // D[64, 8] = A[64, 16] B[16, 8]: A from registers, row r of it being r in column 3; B[k][n] = k + 100 n.
  std::vector<float> d(64 * 8);
  run_warps(4, [&] {
    for (int i = static_cast<int>(threadIdx.x); i < 64 * 64; i += 128) {
      const float value = static_cast<float>(i % 64 + 100 * (i / 64));  // row n, element k
      const __half rounded = __float2half(i / 64 < 8 ? value : 0.0f);
      const std::uint32_t at = static_cast<std::uint32_t>(i) * 2;
      std::memcpy(dynamic_shared_memory() + (at ^ (at >> 7 & 7) << 4), &rounded, 2);
    }
    __syncthreads();
    const int row = static_cast<int>(threadIdx.x / 32) * 16 + lane() / 4;
    std::uint32_t a[4] = {};
    if (lane() % 4 == 1) {  // columns 2 and 3
      for (int i = 0; i < 2; ++i) {
        const __half value = __float2half(static_cast<float>(row + 8 * i));
        std::uint16_t bits;
        std::memcpy(&bits, &value, 2);
        a[i] = std::uint32_t{bits} << 16;
      }
    }
    float mine[4] = {-1, -1, -1, -1};
    sm90::products_begin();
    start_product({.compute = multiply<__half, 8, true, false, false>,
                   .d = mine,
                   .a = {a[0], a[1], a[2], a[3]},
                   .a_at = 0,
                   .b_at = sm90::operand(shared_address(dynamic_shared_memory()), 16, 1024),
                   .accumulate = false});
    sm90::products_commit();
    sm90::products_wait<0>();
    for (int i = 0; i < 4; ++i) {
      d[static_cast<std::size_t>((row + i / 2 * 8) * 8 + lane() % 4 * 2 + i % 2)] = mine[i];
    }
  });
  for (int row = 0; row < 64; ++row) {
    for (int n = 0; n < 8; ++n) EXPECT_EQ(d[static_cast<std::size_t>(row * 8 + n)], row * (3 + 100 * n));
  }
}

// --- wrong uses ---

TEST(EmulatorDeathTest, AWaitThatNothingEnds) {
  EXPECT_DEATH(run_warps(1,
                         [] {
                           auto* const barrier = reinterpret_cast<std::uint64_t*>(dynamic_shared_memory());
                           if (lane() == 0) ptx::barrier_init(barrier, 2);
                           __syncwarp();
                           if (lane() == 0) ptx::barrier_arrive(barrier);
                           ptx::barrier_wait(barrier, 0);
                         }),
               "no thread can go on.*\n.*waits for a barrier in shared memory at .*emulator_test.cpp");
}

TEST(EmulatorDeathTest, BarriersThatAreNotThereOrInUse) {
  const auto with_barrier = [](auto use) {
    return [use] {
      auto* const barrier = reinterpret_cast<std::uint64_t*>(dynamic_shared_memory());
      if (lane() == 0) ptx::barrier_init(barrier, 2);
      __syncwarp();
      if (lane() == 0) use(barrier);
      __syncwarp();
    };
  };
  EXPECT_DEATH(run_warps(1, with_barrier([](auto* barrier) { ptx::barrier_arrive(barrier + 1); })), "was not set up");
  EXPECT_DEATH(run_warps(1, with_barrier([](auto* barrier) { ptx::barrier_init(barrier, 1); })), "set up already");
  EXPECT_DEATH(run_warps(1, with_barrier([](auto* barrier) {
                           ptx::barrier_arrive(barrier);
                           ptx::barrier_invalidate(barrier);
                         })),
               "is in use");
}

TEST(EmulatorDeathTest, ClustersThatAreNotThere) {
  const auto arrive = [](unsigned rank) {
    auto* const barrier = reinterpret_cast<std::uint64_t*>(dynamic_shared_memory());
    ptx::barrier_arrive_remote(ptx::remote_address(barrier, rank));
  };
  EXPECT_DEATH(run_clusters([&] { arrive(2); }), "no such CTA");
  EXPECT_DEATH(run_clusters([&] {
                 if (ptx::cluster_rank() == 0) arrive(1);
               }),
               "was not set up|has ended");
  EXPECT_DEATH(run_clusters([&] {
                 ptx::arrive_cluster();
                 ptx::wait_cluster();
                 if (ptx::cluster_rank() == 0) return;
                 while (true) arrive(0);
               }),
               "was not set up|has ended");
  EXPECT_DEATH(run_clusters([] {
                 ptx::arrive_cluster();
                 ptx::arrive_cluster();
               }),
               "before it has waited");
  EXPECT_DEATH(run_clusters([] { ptx::wait_cluster(); }), "has not arrived");
}

TEST(EmulatorDeathTest, LanesThatDoDifferentThings) {
  EXPECT_DEATH(run_warps(1,
                         [] {
                           if (lane() < 16) {
                             __syncwarp();
                           } else {
                             __shfl_sync(~0u, 1, 0);
                           }
                         }),
               "lanes of one warp are at");
}

TEST(EmulatorDeathTest, APollThatNothingEnds) {
  const std::uint32_t word = 0;
  EXPECT_DEATH(run_warps(1,
                         [&] {
                           while (lane() == 0 && kernels::cuda::load_acquire(&word) == 0) {
                           }
                           __syncwarp();
                         }),
               "no thread can go on");
}

TEST(EmulatorDeathTest, ProductsThatLanesDisagreeOn) {
  const auto products = [](bool fence, int other_lane) {
    return [=] {
      float d[4];
      const std::uint32_t a[4] = {};
      if (fence) sm90::products_begin();
      const std::uint32_t at = shared_address(dynamic_shared_memory());
      start_product({.compute = multiply<__half, 8, true, false, false>,
                     .d = d,
                     .a = {a[0], a[1], a[2], a[3]},
                     .a_at = 0,
                     .b_at = sm90::operand(lane() == other_lane ? at + 1024 : at, 16, 1024),
                     .accumulate = false});
      sm90::products_commit();
    };
  };
  EXPECT_DEATH(run_warps(1, products(false, -1)), "no wgmma.fence");
  EXPECT_DEATH(run_warps(1, products(true, 3)), "bring different products");
  EXPECT_DEATH(run_warps(1, [] { sm90::operand(shared_address(dynamic_shared_memory()) + 8, 16, 1024); }), "& 15");
}

TEST(EmulatorDeathTest, AddressesOutsideSharedMemory) {
  EXPECT_DEATH(run_warps(1, [] { kernels::cuda::store_shared(16, 1); }), "outside shared memory");
  EXPECT_DEATH(run_warps(1, [] { kernels::cuda::store_shared(1024 + 64 * 1024, 1); }), "outside shared memory");
  EXPECT_DEATH(run_warps(1, [] { kernels::cuda::store_shared(1026, 1); }), "misaligned .*emulator_test.cpp");
}

/// Not waiting for a copy is noticed in its result: it takes place late.
TEST(Emulator, CopiesThatNobodyWaitsForComeLate) {
  alignas(16) const std::array<int, 4> from{1, 2, 3, 4};
  int early = 0;
  run_warps(1, [&] {
    for (int i = 0; i < 100; ++i) {
      auto* const to = reinterpret_cast<int*>(dynamic_shared_memory() + lane() * 16);
      to[0] = 0;
      ptx::copy_16(shared_address(to), from.data(), true);
      kernels::cuda::commit_copies();
      early += to[0] != 1;
      kernels::cuda::wait_copies<0>();
      EXPECT_EQ(to[0], 1);
    }
  });
  EXPECT_GT(early, 1000);
}

}  // namespace
}  // namespace trunkline::emulator
