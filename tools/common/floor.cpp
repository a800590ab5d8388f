#include "common/floor.hpp"

#include <cblas.h>

#include <algorithm>

#include "common/random.hpp"

namespace trunkline::tools {
namespace {

// Large enough that packing and edges are below 2 % of the product's time, small enough to repeat between kernels.
constexpr int product_size = 1536;
constexpr std::size_t most_flush_bytes = std::size_t{1} << 30;

Buffer random_matrix(std::uint64_t seed) {
  Buffer matrix(sizeof(float) * product_size * product_size);
  fill_random(matrix.data(), DType::float32, std::size_t{product_size} * product_size, seed);
  return matrix;
}

}  // namespace

FloorMeter::FloorMeter(int num_threads)
    : team_(num_threads),
      a_(random_matrix(1)),
      b_(random_matrix(2)),
      c_(sizeof(float) * product_size * product_size),
      flush_(std::min(last_level_cache_bytes() + last_level_cache_bytes() / 8, most_flush_bytes)) {
  flush_.poison();              // gives it pages of its own
  openblas_set_num_threads(1);  // the team's threads compute; OpenBLAS's own would go on spinning into the next timing
  matrix_rate();
}

double FloorMeter::read_seconds(std::span<const Extent> extents) {
  return time_seconds([&] { read_all(team_, extents); });
}

double FloorMeter::matrix_rate() {
  const double seconds = time_seconds([&] {
    team_.run([&](int thread) {
      const int begin = product_size * thread / team_.size(), end = product_size * (thread + 1) / team_.size();
      const auto offset = static_cast<std::ptrdiff_t>(begin) * product_size;
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, end - begin, product_size, product_size, 1.0f,
                  static_cast<const float*>(a_.data()) + offset, product_size, static_cast<const float*>(b_.data()),
                  product_size, 0.0f, static_cast<float*>(c_.data()) + offset, product_size);
    });
  });
  return 2.0 * product_size * product_size * product_size / seconds;
}

void FloorMeter::flush_caches() {
  const Extent extent{static_cast<const std::byte*>(flush_.data()), flush_.size()};
  read_all(team_, {&extent, 1});
}

}  // namespace trunkline::tools
