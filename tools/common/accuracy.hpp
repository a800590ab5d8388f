// Results held against the double-precision reference, on a sample of rows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "trunkline/attention.hpp"
#include "trunkline/reference.hpp"

namespace trunkline::tools {

/// The worst element: the one that comes nearest its bound, or passes it. NaN and infinite errors count as infinite.
struct Accuracy {
  double max_error = 0;    // |out - reference| there
  double error_bound = 0;  // what is allowed there
  double worst = 0;        // max over out and lse of error / bound; within bounds when <= 1
  int rows = 0;            // rows compared
  bool ok() const { return worst <= 1; }
  /// Keeps the worse of the two.
  void merge(const Accuracy& other);
};

/// What was computed, as the caller of Attention::run has it.
struct Computed {
  TensorView q, out, lse;  // lse may be empty
  KvView kv;
  BlockTables tables;
  std::span<const std::int32_t> seq_lens, qo_lens;  // qo_lens empty: 1 each
  double scale = 1;
};

/// The right answer for `num_rows` rows drawn by `seed` (all of them when there are no more), computed once and held
/// against any number of results, by `num_threads` threads. The memory of `computed` must outlive it.
class Oracle {
 public:
  Oracle(const Computed& computed, int num_rows, std::uint64_t seed, int num_threads = 1);
  /// What out and lse hold now, lse against so many times its bound.
  Accuracy compare(double lse_bound_factor = 1) const;

 private:
  Computed computed_;
  std::vector<ReferenceRow> rows_;
  ReferenceResult expected_;
};

/// One result, held against the reference.
Accuracy compare_with_reference(const Computed& computed, int num_rows, std::uint64_t seed);

}  // namespace trunkline::tools
