#include "plan/balance.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace trunkline::plan {
namespace {

constexpr double uncut = std::numeric_limits<double>::infinity();
// Units per worker up to which it is tried to give every worker the same number of them.
constexpr int most_rounds = 4;
// Room for rounding when loads are compared with their sum.
constexpr double slack = 1e-9;
// How far over the mean the busiest worker may be without further tries, and a worker may be dealt one more long unit
// rather than keep room for most of one.
constexpr double tolerance = 0.005;

}  // namespace

void Balance::make(const CostModel& cost, const Setting& setting, std::span<Tile> tiles, Share& share) {
  cost_ = &cost;
  setting_ = setting;
  tiles_ = tiles;
  sort(share);
  list_ = share.tiles;
  uncut_seconds_.resize(list_.size());
  double sum = 0, longest = 0;
  for (std::size_t i = 0; i < list_.size(); ++i) {
    const double seconds = tile(i).uncut_seconds;
    uncut_seconds_[i] = seconds;
    sum += seconds;
    longest = std::max(longest, seconds);
  }
  uncut_longest_ = longest;
  uncut_mean_ = sum * cost.num_heads() / setting_.num_workers;

  best_.score = uncut;
  const bool fill_up = setting.options.allowed && setting.options.fill_up;
  attempt(uncut, 0, fill_up);
  if (!even()) attempt(uncut, tolerance, false);
  if (setting.options.allowed && !even() && uncut_longest_ > uncut_mean_ / most_rounds) try_caps(uncut_longest_);

  for (std::size_t i = 0; i < list_.size(); ++i) tiles[list_[i]].num_pieces = best_.pieces[i];
  share.num_long = best_.num_long;
  std::swap(share.begin, best_.begin);
  share.busiest = best_.busiest;
}

// From step to step all requests grow alike, so the order of the last time usually holds again.
void Balance::sort(Share& share) {
  const auto before = [this](std::int32_t a, std::int32_t b) {
    const Tile &x = tiles_[a], &y = tiles_[b];
    if (x.lane != y.lane) return x.lane < y.lane;
    return x.uncut_seconds != y.uncut_seconds ? x.uncut_seconds > y.uncut_seconds : a < b;
  };
  if (share.sorted != share.members) {
    share.sorted = share.members;
    share.tiles = share.members;
  }
  if (!std::is_sorted(share.tiles.begin(), share.tiles.end(), before)) {
    std::sort(share.tiles.begin(), share.tiles.end(), before);
  }
}

// Few or unequal units: cut to pieces of the mean load and its parts, and to as many pieces as give each worker 1, 2,
// ... of all units, or of those that are cut.
void Balance::try_caps(double longest) {
  for (int part = 1; part <= most_rounds; part *= 2) {
    if (uncut_mean_ / part < longest) attempt(uncut_mean_ / part, 0, setting_.options.fill_up);
  }
  for (const bool all : {true, false}) {
    for (int round = 1; round <= most_rounds; ++round) try_rounds(longest, round, all);
  }
}

void Balance::try_rounds(double longest, int round, bool all) {
  const auto most = static_cast<std::int64_t>(round) * setting_.num_workers / cost_->num_heads();
  if (most < (all ? static_cast<std::int64_t>(list_.size()) : 1)) return;
  double cap = uncut_mean_ / round;
  for (int step = 0; step < 16 && cap < longest; ++step) {
    cut(cap);
    std::int64_t count = 0, whole = 0;
    for (const std::int32_t pieces : trial_.pieces) (pieces > 1 ? count : whole) += pieces;
    if (!all && whole == 0 && count <= most) return;  // the same as all
    if (all) count += whole;
    if (count <= most) break;
    cap *= std::max(1.01, 0.5 + 0.5 * static_cast<double>(count) / static_cast<double>(most));
  }
  if (cap < longest) attempt(cap, tolerance, false);
}

// Deals with the rest as it is, and, where workers may be filled up and still are uneven, with the rest cut fine.
void Balance::attempt(double longest, double over, bool fill_up) {
  cut(longest);
  const auto better = [this](double busiest) {
    return cost_->together(busiest, setting_.other_seconds) + trial_.merging < best_.score;
  };
  const double least = std::max(trial_.seconds / setting_.num_workers, trial_.longest_unit);
  if (!better(least)) return;
  // Some worker takes at least this many units, whoever it is.
  const std::int64_t most_units = ceil_div<std::int64_t>(trial_.num_units, setting_.num_workers);
  const bool can_win = better(static_cast<double>(most_units) * trial_.shortest_unit * (1 - slack));
  if (!can_win && !fill_up) return;
  deal_long(over);
  fill_up &= trial_.num_long < list_.size();
  if (fill_up) dealt_long_ = trial_;
  if (can_win) {
    deal_short();
    judge();
  }
  if (!fill_up || even()) return;
  std::swap(trial_, dealt_long_);
  refine_rest();
  deal_short();
  judge();
}

void Balance::judge() {
  trial_.score = cost_->together(trial_.busiest, setting_.other_seconds) + trial_.merging;
  if (trial_.score < best_.score) std::swap(trial_, best_);
}

bool Balance::even() const { return best_.busiest <= uncut_mean_ * (1 + tolerance); }

template <class Rounding>
void Balance::cut_tile(std::size_t i, double seconds, Rounding rounding) {
  const Tile& t = tile(i);
  const double room = seconds - t.fixed_seconds - t.partial_seconds;
  const double most = std::max(1, t.num_tokens() / setting_.split_granule);
  const double wanted = room > 0 ? std::min(most, rounding(t.run_seconds / room)) : most;
  trial_.pieces[i] = std::max(1, static_cast<std::int32_t>(wanted));
  trial_.unit_seconds[i] = t.unit_seconds(trial_.pieces[i]);
}

void Balance::cut(double longest) {
  trial_.pieces.assign(list_.size(), 1);
  trial_.unit_seconds = uncut_seconds_;
  trial_.merging = 0;
  if (uncut_longest_ > longest) {
    for (std::size_t i = 0; i < list_.size(); ++i) {
      if (uncut_seconds_[i] > longest) cut_tile(i, longest, [](double x) { return std::ceil(x); });
    }
    trial_.merging = merging_of(trial_.pieces);
  }
  std::int64_t num_pieces = 0;
  double sum = 0, longest_unit = 0, shortest_unit = uncut;
  for (std::size_t i = 0; i < list_.size(); ++i) {
    const double seconds = trial_.unit_seconds[i];
    num_pieces += trial_.pieces[i];
    sum += seconds * trial_.pieces[i];
    longest_unit = std::max(longest_unit, seconds);
    shortest_unit = std::min(shortest_unit, seconds);
  }
  trial_.num_units = num_pieces * cost_->num_heads();
  trial_.seconds = sum * cost_->num_heads();
  trial_.longest_unit = longest_unit;
  trial_.shortest_unit = shortest_unit;
}

double Balance::seconds_from(std::size_t first) const {
  double seconds = 0;
  for (std::size_t i = first; i < list_.size(); ++i) seconds += trial_.unit_seconds[i] * trial_.pieces[i];
  return seconds * cost_->num_heads();
}

// One worker after the other takes units while they fit under the capacity: the mean, or one unit if that is longer,
// and `over` more. The first tile that is not dealt as a whole, and all after it, are left for the short band.
void Balance::deal_long(double over) {
  const auto num_workers = static_cast<std::size_t>(setting_.num_workers);
  const double capacity =
      std::max(trial_.seconds / setting_.num_workers, trial_.longest_unit) * (1 + std::max(over, slack));

  std::vector<std::int32_t>& begin = trial_.begin[0];
  begin.assign(num_workers + 1, 0);
  trial_.load.assign(num_workers, 0);
  double* const load = trial_.load.data();
  std::size_t worker = 0, i = 0;
  std::int64_t dealt = 0;
  double here = 0;  // load of `worker`
  for (; i < list_.size(); ++i) {
    const double seconds = trial_.unit_seconds[i], per_second = 1 / seconds;
    std::int64_t left = units(i);
    const std::int64_t tile_begin = dealt;
    while (worker < num_workers) {
      // Without conversions where all that is left fits: they would be most of the chain from unit to unit.
      const double fits = (capacity - here) * per_second;
      if (fits >= static_cast<double>(left)) {
        here += static_cast<double>(left) * seconds;
        dealt += left;
        left = 0;
        break;
      }
      const std::int64_t taken = std::max<std::int64_t>(static_cast<std::int64_t>(fits), 0);
      load[worker] = here + static_cast<double>(taken) * seconds;
      dealt += taken;
      left -= taken;
      here = 0;
      if (++worker < num_workers) begin[worker] = static_cast<std::int32_t>(dealt);
    }
    if (left == 0) continue;
    // Take back what was dealt of this tile.
    const std::int64_t end = dealt;
    dealt = tile_begin;
    std::int64_t above = end;
    for (std::size_t w = num_workers; w-- > 0 && above > tile_begin;) {
      const std::int64_t from = std::max<std::int64_t>(begin[w], tile_begin);
      load[w] -= static_cast<double>(above - from) * seconds;
      above = from;
      begin[w] = static_cast<std::int32_t>(std::min<std::int64_t>(begin[w], tile_begin));
    }
    break;
  }
  if (worker < num_workers) load[worker] = here;
  for (std::size_t w = std::min(worker, num_workers) + 1; w <= num_workers; ++w) {
    begin[w] = static_cast<std::int32_t>(dealt);
  }
  begin[num_workers] = static_cast<std::int32_t>(dealt);
  trial_.num_long = i;
}

// Cuts the rest into pieces of `grain` seconds. A worker is uneven by half a grain; all of the rest costs its fixed
// time once per grain. With `rest` seconds per worker and `fixed` per piece, grain / 2 + rest / grain * fixed is least
// at sqrt(2 * rest * fixed).
void Balance::refine_rest() {
  double fixed = 0;
  for (std::size_t i = trial_.num_long; i < list_.size(); ++i) {
    fixed = std::max(fixed, tile(i).fixed_seconds + tile(i).partial_seconds);
  }
  const double rest = seconds_from(trial_.num_long) / setting_.num_workers;
  const double grain = std::max(2 * fixed, std::sqrt(2 * rest * fixed));
  for (std::size_t i = trial_.num_long; i < list_.size(); ++i) {
    if (trial_.unit_seconds[i] > grain) cut_tile(i, grain, [](double x) { return std::round(x); });
  }
  trial_.merging = merging_of(trial_.pieces);
}

// Deals the rest so that every worker comes up to the level at which all of it is used.
void Balance::deal_short() {
  const auto num_workers = static_cast<std::size_t>(setting_.num_workers);
  double* const load = trial_.load.data();
  std::vector<std::int32_t>& begin = trial_.begin[1];
  begin.assign(num_workers + 1, 0);
  if (trial_.num_long == list_.size()) {
    trial_.busiest = *std::max_element(load, load + num_workers);
    return;
  }
  const double rest = seconds_from(trial_.num_long);
  double level = 0;
  for (std::size_t w = 0; w < num_workers; ++w) level += load[w];
  level = (level + rest) / static_cast<double>(num_workers);
  // Workers above the level take nothing, which leaves less for the others: the level falls until no more drop out.
  for (std::size_t below = num_workers;;) {
    double room = 0;
    std::size_t taking = 0;
    for (std::size_t w = 0; w < num_workers; ++w) {
      room += std::max(0.0, level - load[w]);
      taking += load[w] < level;
    }
    if (taking == 0) break;
    level += (rest - room) / static_cast<double>(taking);
    if (taking == below || std::abs(rest - room) <= slack * rest) break;
    below = taking;
  }

  std::size_t i = trial_.num_long;
  double seconds = trial_.unit_seconds[i], per_second = 1 / seconds;
  std::int64_t left = units(i), dealt = 0;
  double due = 0, given = 0, busiest = 0;
  // Neighbours usually take alike. Guessing it takes the conversions out of the chain from worker to worker.
  std::int64_t guess = 0;
  double guess_units = 0, guess_seconds = 0;
  for (std::size_t w = 0; w < num_workers; ++w) {
    begin[w] = static_cast<std::int32_t>(dealt);
    double here = load[w];
    due += std::max(0.0, level - here);
    while (i < list_.size()) {
      const double wanted = (due - given) * per_second + 0.5;
      if (w + 1 == num_workers || wanted >= static_cast<double>(left)) {
        here += static_cast<double>(left) * seconds;
        given += static_cast<double>(left) * seconds;
        dealt += left;
        left = 0;
        if (++i == list_.size()) break;
        left = units(i);
        seconds = trial_.unit_seconds[i];
        per_second = 1 / seconds;
        guess_seconds = guess_units * seconds;
        continue;
      }
      if (!(wanted >= guess_units && wanted < guess_units + 1)) {
        guess = std::max<std::int64_t>(static_cast<std::int64_t>(wanted), 0);
        guess_units = static_cast<double>(guess);
        guess_seconds = guess_units * seconds;
      }
      here += guess_seconds;
      given += guess_seconds;
      dealt += guess;
      left -= guess;
      break;
    }
    load[w] = here;
    busiest = std::max(busiest, here);
  }
  trial_.busiest = busiest;
  begin[num_workers] = static_cast<std::int32_t>(dealt);
}

// What the splits add to the merging: whole merges of rows that had one source, sources to read back, and, for the
// longest merge, the most that one tile adds. The first merge of a plan also brings the wait before merging.
double Balance::merging_of(std::span<const std::int32_t> pieces) const {
  double rows = 0, sources = 0;
  std::int32_t most = 0;
  for (std::size_t i = 0; i < list_.size(); ++i) {
    if (pieces[i] <= 1) continue;
    const Tile& t = tile(i);
    const std::int32_t added = t.merged ? pieces[i] - 1 : pieces[i];
    rows += t.merged ? 0 : t.num_rows;
    sources += static_cast<double>(t.num_rows) * added;
    most = std::max(most, added);
  }
  if (rows == 0 && sources == 0) return 0;
  const double units_per_worker = static_cast<double>(cost_->num_heads()) / cost_->num_workers();
  return std::ceil(rows / max_merge_rows * units_per_worker) * cost_->merge_seconds() +
         sources * cost_->partial_row_seconds() * units_per_worker + most * cost_->source_seconds() +
         (setting_.merges_anyway ? 0 : cost_->phase_seconds());
}

}  // namespace trunkline::plan
