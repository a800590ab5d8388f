// Runs a batch through forest, planner and CPU backend at every SIMD target, and holds the results to the reference.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "grids/batch.hpp"
#include "grids/values.hpp"
#include "trunkline/trunkline.hpp"

namespace trunkline::grids {

inline const std::vector<Strategy> every_strategy{Strategy::automatic, Strategy::unshared, Strategy::two_phase,
                                                  Strategy::hydragen};

/// Where K and V lie, and with `padded` q and out as well.
enum class Memory : std::uint8_t {
  nhd,     // [pages, 2, tokens, heads, head_dim]
  hnd,     // [pages, 2, heads, tokens, head_dim]
  apart,   // K and V [pages, tokens, heads, head_dim] each
  padded,  // as nhd, with gaps after every row, token and page, and odd offsets; q and out strided likewise
};

struct Shape {
  int num_qo_heads = 1;
  int num_kv_heads = 1;
  int head_dim = 128;
  DType q_dtype = DType::bfloat16;
  DType kv_dtype = DType::bfloat16;
};

struct Options {
  Pattern pattern = Pattern::normal;
  unsigned seed = 1;
  std::vector<Strategy> strategies = every_strategy;
  Memory memory = Memory::nhd;
  bool shuffle_pages = true;  // number the pages at random, with unused ones in between
  int max_rows = 0;           // rows compared at most, chosen at random but for the first and the last; 0: all
  int num_threads = 2;
  std::optional<float> sm_scale;
  std::optional<DeviceSpec> device;  // what to plan with
};

/// A batch with its memory: pages at random places, everything that no request holds NaN, results poisoned.
class Problem {
 public:
  Problem(const Batch& batch, const Shape& shape, const Options& options = {});

  /// The batch's forest, from its block tables.
  Forest forest() const;
  /// Expects every plan of the forest to pass its check and every result, at every SIMD target and with every strategy
  /// asked for, to be within the reference's bounds. The forest must be of this batch, in the batch's order.
  /// Returns the worst error, relative to its bound.
  double expect_exact(const Forest& forest) const;

  BlockTables tables() const;
  const KvView& kv() const { return kv_; }
  const Batch& batch() const { return batch_; }

 private:
  /// A [tokens, heads, head_dim] array and its memory, two padding rows past the end included.
  struct Rows {
    std::vector<std::byte> memory;
    TensorView view;
  };
  Rows make_rows(DType dtype) const;
  void make_kv();
  void write_values();
  std::vector<ReferenceRow> choose_rows() const;
  AttentionConfig config(Strategy strategy) const;
  double run(const Forest& forest, Strategy strategy, const std::string& target) const;
  double compare(const Rows& out, const std::vector<float>& lse) const;

  Batch batch_;
  Shape shape_;
  Options options_;
  std::vector<std::int32_t> entries_;  // dense block tables, garbage beyond the lengths
  std::vector<std::byte> kv_memory_;
  KvView kv_;
  Rows q_;
  std::vector<ReferenceRow> rows_;
  ReferenceResult expected_;
};

/// Problem(batch, shape, options), run on the forest of its block tables.
double expect_exact(const Batch& batch, const Shape& shape, const Options& options = {});

}  // namespace trunkline::grids
