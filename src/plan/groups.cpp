#include "plan/groups.hpp"

#include <limits>

#include "trunkline/error.hpp"

namespace trunkline::plan {
namespace {

// A node's slope does not ask how many tokens it will get: fixed costs are weighed apart.
constexpr double many_tokens = 1e9;

// Most requests of a batch have the same number of rows.
class TilingMemo {
 public:
  TilingMemo(const CostModel& cost, const Price& price) : cost_(cost), price_(price) {}
  const Tiling& of(std::int32_t rows) {
    if (rows != rows_) {
      rows_ = rows;
      tiling_ = cost_.tile(rows, many_tokens, price_);
    }
    return tiling_;
  }

 private:
  const CostModel& cost_;
  const Price& price_;
  std::int32_t rows_ = -1;
  Tiling tiling_;
};

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

void Grouping::make(const Forest& forest, const Rows& rows, const CostModel& cost, const Choice& choice) {
  const auto nodes = forest.nodes();
  price_nodes(forest, rows, cost, choice.price);
  groups_.clear();
  kept_.assign(nodes.size(), 0);
  num_shared_ = 0;
  depth_.resize(nodes.size());
  for (std::size_t v = 0; v < nodes.size(); ++v) {
    const Node& node = nodes[v];
    NodeState& state = states_[v];
    depth_[v] = node.parent < 0 ? 0 : depth_[node.parent] + 1;
    state.from = node.parent < 0 ? node.first_token : states_[node.parent].from;
    state.above = node.parent < 0 ? -1 : states_[node.parent].above;
    if (rows.of(node.request_begin, node.request_end) == 0) continue;

    const auto index = static_cast<std::int32_t>(v);
    num_shared_ += node.request_end - node.request_begin > 1;
    if (keep(node, state, rows, cost, choice)) {
      kept_[v] = 1;
      add(forest, rows, cost, choice, index, node.request_begin, node.request_end, state.ending_end, state);
      state.from = node.first_token + node.num_tokens;
      state.above = static_cast<std::int32_t>(groups_.size()) - 1;
    } else {
      for (std::int32_t r = node.request_begin; r < state.ending_end; ++r) {
        if (rows.of(r, r + 1) > 0) add(forest, rows, cost, choice, index, r, r + 1, r + 1, state);
      }
    }
  }
}

// Bottom-up: what a token given down to each node costs there, if every node below decides as for its own tokens alone.
void Grouping::price_nodes(const Forest& forest, const Rows& rows, const CostModel& cost, const Price& price) {
  const auto nodes = forest.nodes();
  TilingMemo memo(cost, price);
  states_.resize(nodes.size());
  for (std::size_t v = 0; v < nodes.size(); ++v) states_[v] = {0, 0, nodes[v].request_end, 0, -1};
  for (std::size_t v = nodes.size(); v-- > 0;) {
    const Node& node = nodes[v];
    NodeState& state = states_[v];
    for (std::int32_t r = node.request_begin; r < state.ending_end; ++r) {
      if (const std::int32_t n = rows.of(r, r + 1); n > 0) {
        const Tiling& tiling = memo.of(n);
        state.below_token_seconds += tiling.token_seconds;
        state.ending_item_seconds += tiling.item_seconds;
      }
    }
    if (node.parent < 0) continue;
    NodeState& parent = states_[node.parent];
    parent.ending_end = std::min(parent.ending_end, node.request_begin);
    const std::int32_t n = rows.of(node.request_begin, node.request_end);
    if (n > 0) parent.below_token_seconds += std::min(state.below_token_seconds, memo.of(n).token_seconds);
  }
}

// Keeping reads the tokens once for all rows. It costs an item, and for the rows that have tokens below it a partial
// written and read back; if no group above them is kept, theirs below becomes a partial too, and they need a merge.
bool Grouping::keep(const Node& node, const NodeState& state, const Rows& rows, const CostModel& cost,
                    const Choice& choice) const {
  if (node.request_end - node.request_begin == 1) return state.ending_end == node.request_end;
  switch (choice.strategy) {
    case Strategy::unshared:
      return false;
    case Strategy::two_phase:
    case Strategy::hydragen:
      return true;
    case Strategy::automatic:
      break;
  }
  if (choice.keep_all || choice.keep_none) return choice.keep_all;

  const std::int32_t num_rows = rows.of(node.request_begin, node.request_end);
  const double tokens = node.first_token + node.num_tokens - state.from;
  const Tiling together = cost.tile(num_rows, tokens, choice.price);
  const double saved = tokens * (state.below_token_seconds - together.token_seconds) + state.ending_item_seconds;
  const double partial_rows = rows.of(state.ending_end, node.request_end);
  const double round_trip = 2 * cost.partial_row_seconds();
  const double per_row = state.above >= 0 ? round_trip : 2 * round_trip + cost.merge_seconds() / max_merge_rows;
  return saved > choice.reluctance * (together.item_seconds + partial_rows * per_row);
}

void Grouping::add(const Forest& forest, const Rows& rows, const CostModel& cost, const Choice& choice,
                   std::int32_t node, std::int32_t request_begin, std::int32_t request_end, std::int32_t own_end,
                   const NodeState& state) {
  const Node& n = forest.nodes()[node];
  Group group{};
  group.node = node;
  group.parent = state.above;
  group.phase = choice.strategy == Strategy::hydragen    ? depth_[node]
                : choice.strategy == Strategy::two_phase ? (n.request_end - n.request_begin > 1 ? 0 : 1)
                                                         : 0;
  group.row_begin = rows.first[request_begin];
  group.row_end = rows.first[request_end];
  group.own_row_end = rows.first[own_end];
  group.token_begin = state.from;
  group.token_end = n.first_token + n.num_tokens;
  group.table_row = forest.table_rows()[forest.request_order()[request_begin]];
  group.tile_height =
      cost.tile(group.row_end - group.row_begin, group.token_end - group.token_begin, choice.price).height;
  groups_.push_back(group);
}

std::uint64_t Grouping::fingerprint() const {
  std::uint64_t hash = 0xcbf29ce484222325ull;  // FNV-1a, 64 bits
  auto mix = [&hash](std::uint64_t value) { hash = (hash ^ value) * 0x100000001b3ull; };
  for (const Group& group : groups_) {
    mix(static_cast<std::uint64_t>(group.node) << 32 | static_cast<std::uint32_t>(group.tile_height));
    mix(static_cast<std::uint64_t>(group.token_begin) << 32 | static_cast<std::uint32_t>(group.row_begin));
  }
  return hash;
}

}  // namespace trunkline::plan
