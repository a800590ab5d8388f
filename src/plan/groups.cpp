#include "plan/groups.hpp"

#include <limits>

#include "trunkline/error.hpp"

namespace trunkline::plan {
namespace {

// A node's slope does not ask how many tokens it will get: fixed costs are weighed apart.
constexpr double many_tokens = 1e9;

}  // namespace

void number_rows(const Forest& forest, std::int32_t group_size, std::vector<QueryToken>& query_tokens, Rows& rows) {
  const std::int64_t num_rows = forest.num_query_tokens() * group_size;
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  if (num_rows > most) {
    throw Error(ErrorCode::capacity_exceeded, "forest.num_query_tokens",
                "at most " + std::to_string(most / group_size) + " with " + std::to_string(group_size) +
                    " query heads per KV head",
                std::to_string(forest.num_query_tokens()));
  }
  const std::size_t num_requests = static_cast<std::size_t>(forest.num_requests());
  const auto order = forest.request_order();
  const auto seq_lens = forest.seq_lens();
  const auto qo_lens = forest.qo_lens();

  rows.q_begin.resize(num_requests);
  std::int32_t q_index = 0;
  for (std::size_t r = 0; r < num_requests; ++r) {
    rows.q_begin[r] = q_index;
    q_index += qo_lens[r];
  }

  rows.first.resize(num_requests + 1);
  rows.causal = false;
  query_tokens.resize(static_cast<std::size_t>(forest.num_query_tokens()));
  std::size_t next = 0;
  for (std::size_t position = 0; position < num_requests; ++position) {
    const std::int32_t request = order[position];
    const std::int32_t qo_len = qo_lens[request];
    rows.first[position] = static_cast<std::int32_t>(next) * group_size;
    rows.causal |= qo_len > 1;
    for (std::int32_t j = 0; j < qo_len; ++j) {
      const std::int32_t visible_end = std::max(0, seq_lens[request] - qo_len + j + 1);
      query_tokens[next++] = {rows.q_begin[request] + j, request, 0, seq_lens[request] > 0 ? visible_end : 0};
    }
  }
  rows.first[num_requests] = static_cast<std::int32_t>(next) * group_size;
}

void Grouping::begin(const Forest& forest, const Rows& rows, const CostModel& cost) {
  forest_ = &forest;
  rows_ = &rows;
  cost_ = &cost;
  nodes_ = forest.nodes();
  priced_ = false;
  states_.resize(nodes_.size());
  inner_.clear();
  root_leaf_tokens_ = num_shared_ = 0;
  for (std::size_t v = 0; v < nodes_.size(); ++v) {
    const Node& node = nodes_[v];
    if (!is_leaf(node)) {
      inner_.push_back(static_cast<std::int32_t>(v));
      states_[v].num_leaves = 0;
      states_[v].leaf_ends = 0;
      num_shared_ += rows_of(node) > 0 && node.request_end - node.request_begin > 1;
    } else if (node.parent < 0) {
      root_leaf_tokens_ += node.num_tokens;
    } else {
      ++states_[node.parent].num_leaves;
      states_[node.parent].leaf_ends += node.first_token + node.num_tokens;
    }
  }
}

Grouping::Outcome Grouping::decide(const Choice& choice) {
  if (!priced_ || !(choice.price == choice_.price)) price_nodes(choice.price);
  choice_ = choice;
  Outcome outcome{.hash = 0xcbf29ce484222325ull, .kv_tokens = root_leaf_tokens_};  // FNV-1a over kept nodes and heights
  for (const std::int32_t v : inner_) {
    const Node& node = nodes_[v];
    State& state = states_[v];
    const State* parent = node.parent < 0 ? nullptr : &states_[node.parent];
    state.depth = parent ? parent->depth + 1 : 0;
    state.from = parent ? parent->from : node.first_token;
    const bool covered_above = parent && parent->covered;
    const std::int32_t num_rows = rows_of(node), end = node.first_token + node.num_tokens;
    state.kept = num_rows > 0 && keep(node, state, covered_above);
    state.covered = covered_above || state.kept;
    if (state.kept) {
      outcome.kv_tokens += end - state.from;
      const auto height = static_cast<std::uint64_t>(tilings_.of(num_rows, end - state.from).height);
      outcome.hash = (outcome.hash ^ (static_cast<std::uint64_t>(v) << 32 | height)) * 0x100000001b3ull;
      state.from = end;
    } else {
      for (std::int32_t r = node.request_begin; r < state.ending_end; ++r) {
        if (rows_->of(r, r + 1) > 0) outcome.kv_tokens += end - state.from;
      }
    }
    outcome.kv_tokens += state.leaf_ends - std::int64_t{state.num_leaves} * state.from;
  }
  return outcome;
}

// Bottom-up: what a token given down to each node costs there, if every node below decides as for its own tokens alone.
void Grouping::price_nodes(const Price& price) {
  tilings_ = TilingMemo(*cost_, price);
  priced_ = true;
  for (const std::int32_t v : inner_) {
    State& state = states_[v];
    state.below_token_seconds = state.below_free_seconds = state.ending_item_seconds = 0;
    state.ending_end = nodes_[v].request_end;
  }
  auto inner = inner_.rbegin();
  for (std::size_t v = nodes_.size(); v-- > 0;) {
    const Node& node = nodes_[v];
    const bool leaf = inner == inner_.rend() || static_cast<std::size_t>(*inner) != v;
    if (!leaf) {
      ++inner;
      State& state = states_[v];
      for (std::int32_t r = node.request_begin; r < state.ending_end; ++r) {
        if (const std::int32_t n = rows_->of(r, r + 1); n > 0) {
          const Tiling& tiling = tilings_.of(n, many_tokens);
          state.below_token_seconds += tiling.token_seconds;
          state.ending_item_seconds += tiling.item_seconds;
        }
      }
    }
    if (node.parent < 0) continue;
    State& parent = states_[node.parent];
    parent.ending_end = std::min(parent.ending_end, node.request_begin);
    if (const std::int32_t n = rows_of(node); n > 0) {
      const double own = tilings_.of(n, many_tokens).token_seconds;
      if (leaf || own <= states_[v].below_token_seconds) {
        parent.below_token_seconds += own;
        parent.below_free_seconds += own * (cost_->run_tokens(n, node.num_tokens) - node.num_tokens);
      } else {
        const State& state = states_[v];
        parent.below_token_seconds += state.below_token_seconds;
        parent.below_free_seconds +=
            std::max(state.below_free_seconds - node.num_tokens * state.below_token_seconds, 0.0);
      }
    }
  }
}

// Keeping reads the tokens once for all rows. It costs an item, and for the rows that have tokens below it a partial
// written and read back; if no group above them is kept, theirs below becomes a partial too, and they need a merge.
bool Grouping::keep(const Node& node, const State& state, bool covered_above) {
  if (node.request_end - node.request_begin == 1) return state.ending_end == node.request_end;
  switch (choice_.strategy) {
    case Strategy::unshared:
      return false;
    case Strategy::two_phase:
      return true;
    case Strategy::hydragen:
      return state.depth < choice_.max_levels - 1;
    case Strategy::automatic:
      break;
  }
  if (choice_.keep_all || choice_.keep_none) return choice_.keep_all;

  const double tokens = node.first_token + node.num_tokens - state.from;
  const std::int32_t num_rows = rows_of(node);
  const Tiling& together = tilings_.of(num_rows, tokens);
  const double own = together.item_seconds / cost_->heads_at_once(num_rows, tokens);
  const double below = std::max(tokens * state.below_token_seconds - state.below_free_seconds, 0.0);
  const double saved = below + state.ending_item_seconds - cost_->run_tokens(num_rows, tokens) * together.token_seconds;
  const double partial_rows = rows_->of(state.ending_end, node.request_end);
  const double round_trip = 2 * cost_->partial_row_seconds();
  const double per_row = covered_above ? round_trip : 2 * round_trip + cost_->merge_seconds() / max_merge_rows;
  return saved > choice_.reluctance * (own + partial_rows * per_row);
}

void Grouping::build(std::vector<Group>& groups) {
  const std::span<const std::int32_t> order = forest_->request_order(), table_rows = forest_->table_rows();
  groups.clear();
  auto inner = inner_.begin();
  for (std::size_t v = 0; v < nodes_.size(); ++v) {
    const Node& node = nodes_[v];
    const State* parent = node.parent < 0 ? nullptr : &states_[node.parent];
    const std::int32_t above = parent ? parent->group : -1, depth = parent ? parent->depth + 1 : 0;
    auto add = [&](std::int32_t request_begin, std::int32_t request_end, std::int32_t own_end, bool kept) {
      const std::int32_t row_begin = rows_->first[request_begin], row_end = rows_->first[request_end];
      const std::int32_t token_begin = parent ? parent->from : node.first_token;
      const std::int32_t token_end = node.first_token + node.num_tokens;
      std::int32_t phase = 0;
      if (choice_.strategy == Strategy::hydragen) phase = std::min(depth, choice_.max_levels - 1);
      if (choice_.strategy == Strategy::two_phase) phase = node.request_end - node.request_begin > 1 ? 0 : 1;
      groups.push_back({.node = static_cast<std::int32_t>(v),
                        .parent = above,
                        .phase = phase,
                        .row_begin = row_begin,
                        .row_end = row_end,
                        .own_row_end = rows_->first[own_end],
                        .token_begin = token_begin,
                        .token_end = token_end,
                        .table_row = table_rows[order[request_begin]],
                        .tile_height = tilings_.of(row_end - row_begin, token_end - token_begin).height,
                        .kept = kept});
    };
    if (inner == inner_.end() || static_cast<std::size_t>(*inner) != v) {  // a leaf
      add(node.request_begin, node.request_end, node.request_end, true);
      continue;
    }
    ++inner;
    State& state = states_[v];
    state.group = above;
    if (state.kept) {
      state.group = static_cast<std::int32_t>(groups.size());
      add(node.request_begin, node.request_end, state.ending_end, true);
      continue;
    }
    for (std::int32_t r = node.request_begin; r < state.ending_end; ++r) {
      if (rows_->of(r, r + 1) > 0) add(r, r + 1, r + 1, false);
    }
  }
}

}  // namespace trunkline::plan
