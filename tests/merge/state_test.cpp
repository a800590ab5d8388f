// The algebra of (out, lse) on single elements: what a merge must do whatever merges.
#include "merge/state.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cmath>
#include <limits>
#include <vector>

namespace trunkline::merge {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr double roundoff = 0x1p-24;  // of f32

struct State {
  float out, lse;
};

State merged(State a, State b) {
  const Weights w = weights(a.lse, b.lse);
  return {combine(w, a.out, b.out), w.lse};
}

struct ExactState {
  double out, lse;
};

ExactState merged_exactly(const std::vector<State>& states) {
  double high = -std::numeric_limits<double>::infinity();
  for (const State& state : states) high = std::max(high, double{state.lse});
  if (high == -std::numeric_limits<double>::infinity()) return {0.0, high};
  double sum = 0, out = 0;
  for (const State& state : states) {
    if (state.lse == -infinity) continue;
    const double weight = std::exp(double{state.lse} - high);
    sum += weight;
    out += weight * double{state.out};
  }
  return {out / sum, high + std::log(sum)};
}

/// One merge rounds: lse_b - lse_a (error relative to w: half an ulp of the difference, at most |lse| * 2^-23), exp,
/// the sum, the two divisions, two products and a sum. That is 8 roundings relative to the larger |out|, and the
/// difference's share. The factor `merges` is the number of merges in a chain.
double out_tolerance(const std::vector<State>& states, int merges) {
  double out = 0, lse = 0;
  for (const State& state : states) {
    if (state.lse == -infinity) continue;
    out = std::max(out, std::fabs(double{state.out}));
    lse = std::max(lse, std::fabs(double{state.lse}));
  }
  return merges * roundoff * (8 + 2 * lse) * out + 1e-45;
}

double lse_tolerance(const std::vector<State>& states, int merges) {
  double lse = 1;
  for (const State& state : states) {
    if (state.lse != -infinity) lse = std::max(lse, std::fabs(double{state.lse}));
  }
  return merges * roundoff * 4 * lse;
}

void expect_exact(State actual, const std::vector<State>& states, int merges) {
  const ExactState exact = merged_exactly(states);
  EXPECT_NEAR(actual.out, exact.out, out_tolerance(states, merges));
  if (exact.lse == -std::numeric_limits<double>::infinity()) {
    EXPECT_EQ(actual.lse, -infinity);
  } else {
    EXPECT_NEAR(actual.lse, exact.lse, lse_tolerance(states, merges));
  }
}

TEST(MergeState, EqualLseAveragesAndAddsLogTwo) {
  const State state = merged({2.0f, 3.0f}, {4.0f, 3.0f});
  EXPECT_EQ(state.out, 3.0f);
  EXPECT_FLOAT_EQ(state.lse, 3.0f + std::log(2.0f));
}

TEST(MergeState, EmptySideLeavesTheOtherToTheBit) {
  const State full{0.1f, -7.3f};
  for (const float garbage : {0.0f, 1e38f, infinity, -infinity, nan}) {
    const State right = merged(full, {garbage, -infinity}), left = merged({garbage, -infinity}, full);
    EXPECT_EQ(right.out, full.out);
    EXPECT_EQ(right.lse, full.lse);
    EXPECT_EQ(left.out, full.out);
    EXPECT_EQ(left.lse, full.lse);
  }
}

TEST(MergeState, TwoEmptySidesAreEmpty) {
  const State state = merged({nan, -infinity}, {infinity, -infinity});
  EXPECT_EQ(state.out, 0.0f);
  EXPECT_EQ(state.lse, -infinity);
}

TEST(MergeState, HugeDifferenceGivesTheLargerSideToTheBit) {
  for (const float lse : {-1e4f, 0.0f, 1e4f, 3e38f}) {
    const State state = merged({5.0f, lse}, {nan, lse - 1e3f - std::fabs(lse)});
    EXPECT_EQ(state.out, 5.0f);
    EXPECT_EQ(state.lse, lse);
  }
}

TEST(MergeState, SmallDifferencesAtLargeLseKeepTheirWeight) {
  expect_exact(merged({1.0f, 10000.0f}, {2.0f, 9999.0f}), {{1.0f, 10000.0f}, {2.0f, 9999.0f}}, 1);
  expect_exact(merged({1.0f, -10000.0f}, {2.0f, -10001.0f}), {{1.0f, -10000.0f}, {2.0f, -10001.0f}}, 1);
}

TEST(MergeState, NanIsNeverSwallowed) {
  EXPECT_TRUE(std::isnan(weights(nan, 0.0f).lse));
  EXPECT_TRUE(std::isnan(weights(0.0f, nan).lse));
  EXPECT_TRUE(std::isnan(weights(nan, -infinity).lse));
  EXPECT_TRUE(std::isnan(weights(-infinity, nan).lse));
  EXPECT_TRUE(std::isnan(merged({nan, 0.0f}, {1.0f, 0.0f}).out));
}

TEST(MergeState, OverflowedLseTakesAllTheWeight) {
  const State state = merged({1.0f, infinity}, {2.0f, 80.0f});
  EXPECT_EQ(state.out, 1.0f);
  EXPECT_EQ(state.lse, infinity);
}

State arbitrary_state() {
  const int kind = *rc::gen::inRange(0, 8);
  if (kind == 0) return {nan, -infinity};
  const float range = kind == 1 ? 1e4f : 20.0f;
  const float out = static_cast<float>(*rc::gen::inRange(-1000000, 1000000)) * 1e-5f;
  return {out, static_cast<float>(*rc::gen::inRange(-1000000, 1000000)) * 1e-6f * range};
}

TEST(MergeState, CommutesToTheBit) {
  EXPECT_TRUE(rc::check([] {
    const State a = arbitrary_state(), b = arbitrary_state();
    const State ab = merged(a, b), ba = merged(b, a);
    RC_ASSERT(ab.out == ba.out);
    RC_ASSERT(ab.lse == ba.lse);
  }));
}

TEST(MergeState, AssociatesWithinRounding) {
  EXPECT_TRUE(rc::check([] {
    const std::vector<State> states{arbitrary_state(), arbitrary_state(), arbitrary_state()};
    const State left = merged(merged(states[0], states[1]), states[2]);
    const State right = merged(states[0], merged(states[1], states[2]));
    RC_ASSERT(std::fabs(left.out - right.out) <= 2 * out_tolerance(states, 2));
    RC_ASSERT(left.lse == right.lse || std::fabs(left.lse - right.lse) <= 2 * lse_tolerance(states, 2));
  }));
}

TEST(MergeState, AnyOrderAndAnyGroupingIsExactWithinRounding) {
  EXPECT_TRUE(rc::check([] {
    std::vector<State> states;
    for (int n = *rc::gen::inRange(1, 40); n > 0; --n) states.push_back(arbitrary_state());
    std::vector<State> pending = states;
    while (pending.size() > 1) {  // merge two neighbours, wherever
      const auto i = static_cast<std::size_t>(*rc::gen::inRange<int>(0, static_cast<int>(pending.size()) - 1));
      pending[i] = merged(pending[i], pending[i + 1]);
      pending.erase(pending.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    }
    const ExactState exact = merged_exactly(states);
    const int merges = static_cast<int>(states.size());
    const float lse = pending[0].lse;
    if (merges == 1 && lse == -infinity) return;  // nothing was merged: out means nothing
    RC_ASSERT(std::fabs(pending[0].out - exact.out) <= out_tolerance(states, merges));
    RC_ASSERT(lse == exact.lse || std::fabs(lse - exact.lse) <= lse_tolerance(states, merges));
  }));
}

}  // namespace
}  // namespace trunkline::merge
