// The emulated device's, in place of src/kernels/sm90/wgmma.cuh.
#pragma once

#include <cstdint>

#include "emulator/products.hpp"
#include "kernels/sm90/operand.cuh"
#include "kernels/sm90/ptx.cuh"

namespace trunkline::kernels::sm90 {

inline void products_begin() { emulator::begin_products(); }
inline void products_commit(emulator::Place place = emulator::Place::current()) { emulator::commit_products(place); }
template <int count>
void products_are_in(float (&)[count]) {}
template <int pending>
void products_wait(emulator::Place place = emulator::Place::current()) {
  emulator::wait_products(pending, place);
}

template <class T, int N, int transposed_a>
void product(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, int accumulate,
             emulator::Place place = emulator::Place::current()) {
  emulator::start_product({.compute = emulator::multiply<T, N, false, transposed_a != 0, false>,
                           .d = d,
                           .a = {},
                           .a_at = a,
                           .b_at = b,
                           .accumulate = accumulate != 0,
                           .place = place});
}
template <class T, int N, int transposed_b>
void product(float (&d)[N / 2], const std::uint32_t (&a)[4], std::uint64_t b, int accumulate,
             emulator::Place place = emulator::Place::current()) {
  emulator::start_product({.compute = emulator::multiply<T, N, true, false, transposed_b != 0>,
                           .d = d,
                           .a = {a[0], a[1], a[2], a[3]},
                           .a_at = 0,
                           .b_at = b,
                           .accumulate = accumulate != 0,
                           .place = place});
}

}  // namespace trunkline::kernels::sm90
