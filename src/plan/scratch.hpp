// What the steps of planning hand to each other. Everything is a flat array that the next plan uses again.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include "plan/cost.hpp"
#include "trunkline/forest.hpp"
#include "trunkline/plan.hpp"

namespace trunkline::plan {

/// The requests of a batch as rows, in forest order.
struct Rows {
  std::vector<std::int32_t> first;    // [num_requests + 1] first row of the request at a forest position
  std::vector<std::int32_t> q_begin;  // [num_requests] first row of q, by the caller's index
  bool causal = false;  // some request has several query tokens, so rows of one item may see different ends

  std::int32_t count() const { return first.empty() ? 0 : first.back(); }
  std::int32_t of(std::int32_t request_begin, std::int32_t request_end) const {
    return first[request_end] - first[request_begin];
  }
};

/// One way to use a forest's sharing.
struct Choice {
  Strategy strategy = Strategy::automatic;
  bool keep_all = false;    // automatic: every node that several requests share, whatever it costs
  bool keep_none = false;   // automatic: none
  Price price{};            // automatic: what a second of each lane counts
  double reluctance = 1.0;  // automatic: sharing must save this many times what it costs
  std::int32_t max_levels = std::numeric_limits<std::int32_t>::max();  // hydragen: the last takes all deeper ones
};

/// Rows that attend to one run of tokens together: a kept node with what was given down to it, or one request.
struct Group {
  std::int32_t node = 0;
  std::int32_t parent = -1;  // the group that covers these rows just before, or -1
  std::int32_t phase = 0;
  std::int32_t row_begin = 0, row_end = 0;
  std::int32_t own_row_end = 0;  // rows before it have no later group
  std::int32_t token_begin = 0, token_end = 0;
  std::int32_t table_row = 0;
  std::int32_t tile_begin = 0, tile_count = 0, tile_height = 0;
  std::int32_t layer = 0;       // how many sources its rows may have from groups before it
  std::int32_t num_pieces = 0;  // the most of its tiles
  bool kept = false;            // the node is; else it is one request of a node that is not
};

/// Rows of a group that one work item serves, before its tokens are split.
struct Tile {
  std::int32_t group;
  std::int32_t row_begin, num_rows;
  std::int32_t token_begin, token_end;  // equal: its rows see nothing of the group
  std::int32_t read_tokens;             // beyond those that a tile before it of its group reads
  std::int32_t first_end;               // the least visible end of its rows
  std::int32_t lane;
  std::int32_t num_pieces;
  std::int32_t first_piece;  // number of pieces of the tiles before it
  bool merged;               // its rows have other sources too
  double fixed_seconds;      // of one unit: the item, and the partial if it writes one whatever happens
  double partial_seconds;    // to write the partial that a split makes
  double run_seconds;        // of all its tokens
  double uncut_seconds;      // of one unit if the tokens are not split
  std::int32_t num_tokens() const { return token_end - token_begin; }
  bool direct() const { return num_pieces == 1 && !merged; }  // its one item writes the result
  double unit_seconds(std::int32_t pieces) const {
    return pieces == 1 ? uncut_seconds : fixed_seconds + partial_seconds + run_seconds / pieces;
  }
};

/// Of all tiles that see a token.
struct TileTotals {
  std::vector<std::array<double, num_lanes>> phase_seconds;  // unsplit, of one head
  double kv_tokens = 0;
  double read_tokens = 0;  // from memory: those that several row tiles of a group see count once
  double merged_rows = 0;
};

struct SplitOptions {
  bool allowed = true;  // tokens may be split at all
  bool fill_up = true;  // short pieces may be made to even out the workers
};

}  // namespace trunkline::plan
