// The emulated device's, in place of src/kernels/sm80/mma.cuh.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#include "emulator/device.hpp"
#include "emulator/products.hpp"

namespace trunkline::kernels::sm80 {

inline void load_matrices_as(std::uint32_t (&words)[4], std::uint32_t row, bool transposed, emulator::Place place) {
  const auto rows = emulator::exchange(row, "ldmatrix", place);
  const int lane = emulator::lane();
  for (int matrix = 0; matrix < 4; ++matrix) {
    const auto element = [&](int r, int c) {
      std::uint16_t bits;
      const auto at = static_cast<std::uint32_t>(rows[static_cast<std::size_t>(matrix * 8 + r)]);
      std::memcpy(&bits, emulator::shared_memory(at, 16, place) + c * 2, 2);
      return std::uint32_t{bits};
    };
    const int i = lane / 4, j = lane % 4 * 2;
    words[matrix] = transposed ? element(j, i) | element(j + 1, i) << 16 : element(i, j) | element(i, j + 1) << 16;
  }
  emulator::exchange(0, "ldmatrix", place);  // nobody writes before all have read
}
inline void load_matrices(std::uint32_t (&words)[4], std::uint32_t row,
                          emulator::Place place = emulator::Place::current()) {
  load_matrices_as(words, row, false, place);
}
inline void load_matrices_transposed(std::uint32_t (&words)[4], std::uint32_t row,
                                     emulator::Place place = emulator::Place::current()) {
  load_matrices_as(words, row, true, place);
}

template <class T>
void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
                  emulator::Place place = emulator::Place::current()) {
  struct Fragments {
    float* c;
    const std::uint32_t (&a)[4];
    std::uint32_t b[2];
  } mine{c, a, {b0, b1}};
  emulator::together(
      reinterpret_cast<std::uint64_t>(&mine), "mma",
      [](const emulator::Lanes& lanes) {
        float all_a[16][16], all_b[16][8];
        for (int lane = 0; lane < emulator::warp_size; ++lane) {
          const auto& one = *reinterpret_cast<const Fragments*>(lanes[static_cast<std::size_t>(lane)]);
          emulator::spread_a<T>(one.a, lane, all_a);
          for (int i = 0; i < 2; ++i) {
            all_b[lane % 4 * 2 + 8 * i][lane / 4] = emulator::low_half<T>(one.b[i]);
            all_b[lane % 4 * 2 + 8 * i + 1][lane / 4] = emulator::high_half<T>(one.b[i]);
          }
        }
        for (int lane = 0; lane < emulator::warp_size; ++lane) {
          const auto& one = *reinterpret_cast<const Fragments*>(lanes[static_cast<std::size_t>(lane)]);
          for (int i = 0; i < 4; ++i) {
            const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            float sum = 0;
            for (int k = 0; k < 16; ++k) sum += all_a[row][k] * all_b[k][column];
            one.c[i] += sum;
          }
        }
      },
      place);
}

}  // namespace trunkline::kernels::sm80
