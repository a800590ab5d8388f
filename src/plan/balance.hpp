// Splits and order: how the tiles of one list (a lane, or both lanes of a device that works on one item at a time) are
// cut along their tokens and shared out so that all workers finish together.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/scratch.hpp"

namespace trunkline::plan {

/// The tiles of a list in the order of the schedule, and who takes what. A unit is (piece of a tile, KV head).
struct Share {
  std::vector<std::int32_t> members;  // ascending
  std::vector<std::int32_t> tiles;    // the same: wide before narrow, then longest first
  std::vector<std::int32_t> sorted;   // the members that `tiles` is made of
  std::size_t num_long = 0;           // tiles[0, num_long) are the long band
  /// [num_workers + 1] per band: first unit of each worker, counted from the band's first tile.
  std::array<std::vector<std::int32_t>, 2> begin;
  double busiest = 0;  // seconds
};

/// Cuts and shares out a list. Long tiles are dealt in contiguous runs to one worker after the other; what does not
/// fit evenly is cut fine and fills the workers up. A few ways to cut are tried and the best by the model is taken: a
/// split must earn its partial, its merge and its fixed time.
class Balance {
 public:
  struct Setting {
    SplitOptions options;
    std::int32_t split_granule = 1;  // tokens
    bool merges_anyway = false;      // the plan has merges whatever is decided here
    double other_seconds = 0;        // of the other lane, where lanes overlap
    int num_workers = 1;             // pairs count once
  };
  /// Makes a share of its members; what it holds from the last time may spare the sorting. Sets num_pieces of the
  /// tiles.
  void make(const CostModel& cost, const Setting& setting, std::span<Tile> tiles, Share& share);

 private:
  struct Trial {
    double score = 0;    // the phase, and what the splits add to the merging
    double seconds = 0;  // of all units
    double longest_unit = 0, shortest_unit = 0;
    std::int64_t num_units = 0;
    double merging = 0;  // see merging_of
    double busiest = 0;
    std::size_t num_long = 0;
    std::vector<std::int32_t> pieces;  // per tile of the list
    std::vector<double> unit_seconds;  // per tile of the list
    std::array<std::vector<std::int32_t>, 2> begin;
    std::vector<double> load;
  };

  void sort(Share& share);
  void try_caps(double longest);
  void try_rounds(double longest, int round, bool all);
  void attempt(double longest, double over, bool fill_up);
  void cut(double longest);
  void deal_long(double over);
  void refine_rest();
  void deal_short();
  void judge();
  bool even() const;
  double merging_of(std::span<const std::int32_t> pieces) const;

  const Tile& tile(std::size_t i) const { return tiles_[list_[i]]; }
  std::int64_t units(std::size_t i) const { return std::int64_t{trial_.pieces[i]} * cost_->num_heads(); }
  /// Seconds of all units of tiles [first, end of list).
  double seconds_from(std::size_t first) const;
  /// Cuts tile i so that its pieces take `seconds` each, rounded by `rounding`.
  template <class Rounding>
  void cut_tile(std::size_t i, double seconds, Rounding rounding);

  const CostModel* cost_ = nullptr;
  Setting setting_;
  std::span<Tile> tiles_;
  std::span<const std::int32_t> list_;
  std::vector<double> uncut_seconds_;  // per tile of the list
  double uncut_longest_ = 0;
  double uncut_mean_ = 0;  // seconds of a worker if nothing is split and all is even
  Trial trial_, best_, dealt_long_;
};

}  // namespace trunkline::plan
