// From a forest to groups: which rows attend to which run of tokens together.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/scratch.hpp"

namespace trunkline::plan {

/// Numbers the query tokens and rows of the forest.
void number_rows(const Forest& forest, std::int32_t group_size, std::vector<QueryToken>& query_tokens, Rows& rows);

/// Decides for every node whether its rows attend to it together or its tokens go down.
///
/// Going down moves tokens to the node's children and to the requests that end in it. Positions are absolute and a
/// child's table row covers the whole prefix, so what is given down only moves the child's first token upwards: a
/// group is always one run of tokens.
class Grouping {
 public:
  /// What the next calls are about; all of it stays alive and unchanged until the last of them.
  void begin(const Forest& forest, const Rows& rows, const CostModel& cost);
  struct Outcome {
    std::uint64_t hash;      // tells different outcomes apart
    std::int64_t kv_tokens;  // of all groups; causal rows may see fewer
  };
  Outcome decide(const Choice& choice);
  /// Makes the groups of what was decided last, in depth-first order: a group comes before those of the same rows that
  /// follow it in position.
  void build(std::vector<Group>& groups);

  /// Nodes whose rows belong to several requests: where there is something to decide.
  std::int32_t num_shared() const { return num_shared_; }

 private:
  // Most nodes of a decode batch are leaves of one request with few rows: nothing about them depends on the choice but
  // where their tokens begin. They are not among `inner_` and have no state.
  bool is_leaf(const Node& node) const {
    const std::int32_t num_rows = rows_of(node);
    return node.request_end - node.request_begin == 1 && num_rows > 0 && cost_->is_narrow(num_rows);
  }
  struct State {                 // of an inner node
    double below_token_seconds;  // priced, per token given down, over children and requests that end here
    double below_free_seconds;   // priced, of those tokens that short items below take in for nothing
    double ending_item_seconds;  // priced, of the items that requests ending here need if nothing is kept
    std::int32_t ending_end;     // requests [request_begin, ending_end) end in this node
    std::int32_t from;           // first position that is left to its children when decided, then to build
    std::int32_t depth;
    std::int32_t group;  // the last group that covers its rows, its own included, or -1
    bool covered;        // some kept node covers its rows, itself included
    bool kept;
    std::int32_t num_leaves;  // children
    std::int64_t leaf_ends;   // where they end, summed
  };

  void price_nodes(const Price& price);
  bool keep(const Node& node, const State& state, bool covered_above);
  std::int32_t rows_of(const Node& node) const { return rows_->of(node.request_begin, node.request_end); }

  const Forest* forest_ = nullptr;
  const Rows* rows_ = nullptr;
  const CostModel* cost_ = nullptr;
  std::span<const Node> nodes_;
  bool priced_ = false;  // for choice_.price
  Choice choice_;
  TilingMemo tilings_;
  std::vector<State> states_;        // by node
  std::vector<std::int32_t> inner_;  // ascending
  std::int64_t root_leaf_tokens_ = 0;
  std::int32_t num_shared_ = 0;
};

}  // namespace trunkline::plan
