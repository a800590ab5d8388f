// From a forest to groups: which rows attend to which run of tokens together.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/scratch.hpp"

namespace trunkline::plan {

/// Numbers the query tokens and rows of the forest.
void number_rows(const Forest& forest, std::int32_t group_size, std::vector<QueryToken>& query_tokens, Rows& rows);

/// Decides for every node whether its rows attend to it together or its tokens go down, and makes the groups, in
/// depth-first order: a group comes before those of the same rows that follow it in position.
///
/// Going down moves tokens to the node's children and to the requests that end in it. Positions are absolute and a
/// child's table row covers the whole prefix, so what is given down only moves the child's first token upwards: a
/// group is always one run of tokens.
class Grouping {
 public:
  void make(const Forest& forest, const Rows& rows, const CostModel& cost, const Choice& choice);

  const std::vector<Group>& groups() const { return groups_; }
  std::vector<Group>& groups() { return groups_; }
  bool kept(std::size_t node) const { return kept_[node] != 0; }
  /// Nodes whose rows belong to several requests: where there is something to decide.
  std::int32_t num_shared() const { return num_shared_; }
  /// The decisions and the tilings, to tell whether two choices come to the same.
  std::uint64_t fingerprint() const;

 private:
  struct NodeState {
    double below_token_seconds;  // priced, per token given down, over children and requests that end here
    double ending_item_seconds;  // priced, of the items that requests ending here need if nothing is kept
    std::int32_t ending_end;     // requests [request_begin, ending_end) end in this node
    std::int32_t from;           // first position the node has to cover, those given down included
    std::int32_t above;          // the group that covers its rows just before, or -1
  };

  void price_nodes(const Forest& forest, const Rows& rows, const CostModel& cost, const Price& price);
  bool keep(const Node& node, const NodeState& state, const Rows& rows, const CostModel& cost,
            const Choice& choice) const;
  void add(const Forest& forest, const Rows& rows, const CostModel& cost, const Choice& choice, std::int32_t node,
           std::int32_t request_begin, std::int32_t request_end, std::int32_t own_end, const NodeState& state);

  std::vector<NodeState> states_;
  std::vector<std::int32_t> depth_;
  std::vector<std::uint8_t> kept_;
  std::vector<Group> groups_;
  std::int32_t num_shared_ = 0;
};

}  // namespace trunkline::plan
