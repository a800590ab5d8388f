// Runs a batch through forest, planner and every kernel of the program's device, and holds the results to the
// reference.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "grids/batch.hpp"
#include "grids/device.hpp"
#include "grids/values.hpp"
#include "trunkline/trunkline.hpp"

namespace trunkline::grids {

inline const std::vector<Strategy> every_strategy{Strategy::automatic, Strategy::unshared, Strategy::two_phase,
                                                  Strategy::hydragen};

/// Where K and V lie, and with `padded` and `spaced` q and out as well.
enum class Memory : std::uint8_t {
  nhd,        // [pages, 2, tokens, heads, head_dim]
  hnd,        // [pages, 2, heads, tokens, head_dim]
  apart,      // K and V [pages, tokens, heads, head_dim] each
  apart_hnd,  // K and V [pages, heads, tokens, head_dim] each
  mixed,      // K as in apart, V as in apart_hnd
  padded,     // as nhd, with gaps after every row, token and page, and odd offsets; q and out strided likewise
  spaced,     // as padded, with gaps that keep rows aligned to 16 bytes
};
inline const std::vector<Memory> every_memory{Memory::nhd,   Memory::hnd,    Memory::apart, Memory::apart_hnd,
                                              Memory::mixed, Memory::padded, Memory::spaced};
const char* to_string(Memory memory);

struct Options {
  Pattern pattern = Pattern::normal;
  unsigned seed = 1;
  std::vector<Strategy> strategies = every_strategy;
  Memory memory = Memory::nhd;
  bool shuffle_pages = true;  // number the pages at random, with unused ones in between
  int max_rows = 0;           // rows compared at most, chosen at random but for the first and the last; 0: all
  int num_threads = 2;
  std::optional<float> sm_scale;
  int num_workers = 0;         // to plan for; 0: as many as the device has
  bool free_of_costs = false;  // plan as if items, merges and phases cost nothing: then everything shared stays shared
  /// Lengths known to the device alone, each at most the planned one; empty: none. What lies beyond is not in the
  /// pages.
  std::vector<std::int32_t> device_seq_lens;
};

/// How a forest came out.
struct Verdict {
  double worst = 0;   // error, relative to its bound
  std::string wrong;  // what is wrong, of the first plan that is; empty: nothing
};

/// A batch with its memory: pages at random places, everything that no request holds NaN, results poisoned.
class Problem {
 public:
  /// The shape is taken to be the nearest one that the device covers.
  Problem(const Batch& batch, const Shape& shape, const Options& options = {});

  /// The batch's forest, from its block tables.
  Forest forest() const;
  /// Whether every plan of the forest passes its check and every result, of every target and with every strategy asked
  /// for, is within the reference's bounds. The forest must be of this batch, in the batch's order.
  Verdict judge(const Forest& forest) const;
  /// The same for one attention of this problem's shape, and a workspace that may have served other batches before.
  Verdict judge(const Forest& forest, const Attention& attention, Workspace& workspace) const;
  /// Expects nothing to be wrong, and returns the worst error.
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
  struct Results {
    Rows out;
    std::vector<float> lse;
  };
  Rows make_rows(DType dtype) const;
  Results poisoned_results() const;
  void make_kv();
  void write_values();
  std::vector<ReferenceRow> choose_rows() const;
  ReferenceResult evaluate() const;
  AttentionConfig config(Strategy strategy) const;
  Verdict run(const Forest& forest, Strategy strategy, const Target& target) const;
  Results carry_out_run(Way way, const Attention& attention, Workspace& workspace) const;
  Verdict compare(const Results& results, double lse_bound_factor) const;
  std::string check_unsampled(const Results& results) const;

  Batch batch_;
  Shape shape_;
  Options options_;
  std::vector<std::int32_t> entries_;  // dense block tables, garbage beyond the lengths
  std::vector<std::byte> kv_memory_;
  KvView kv_;
  Rows q_;
  std::vector<ReferenceRow> rows_;
  ReferenceResult expected_;
  std::optional<DeviceArray> kv_on_device_, q_on_device_, seq_lens_on_device_;
};

/// Problem(batch, shape, options), run on the forest of its block tables.
double expect_exact(const Batch& batch, const Shape& shape, const Options& options = {});

}  // namespace trunkline::grids
