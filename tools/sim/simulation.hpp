// Continuous batching of a trace: which requests run together at each decode step, and what of their KV they share.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "sim/arrivals.hpp"
#include "sim/options.hpp"
#include "trace/trace.hpp"
#include "trunkline/forest.hpp"
#include "trunkline/page_pool.hpp"
#include "trunkline/prefix_tree.hpp"

namespace trunkline::sim {

/// Runs a trace through a page pool and a prefix tree, step by step. Deterministic.
class Simulation {
 public:
  /// The trace must outlive this. Throws invalid_argument for an option, or naming a request that is larger than the
  /// pool all by itself.
  Simulation(const trace::Trace& trace, const Options& options);

  /// Goes to the next decode step; false when every request has finished or max_steps is reached. Throws corrupt when
  /// a step that is verified is wrong.
  bool step();

  /// The current step, after `step` said true. Its forest is the batch with each request's newest token.
  const Step& current() const { return current_; }
  const Forest& forest() const { return forest_; }
  const PrefixTree& tree() const { return tree_; }
  Totals totals() const;

 private:
  struct Waiting {
    std::int32_t request;        // of the trace
    std::int32_t num_generated;  // output tokens it had when it was preempted
    bool restart;
  };
  struct Running {
    std::int32_t request;
    std::int32_t num_generated;
    RequestId id;    // in the tree
    bool in_forest;  // it was part of the last step
  };

  const trace::Request& traced(std::int32_t request) const {
    return trace_.requests[static_cast<std::size_t>(request)];
  }
  void check_sizes() const;

  // A step, in this order.
  void arrive();
  void admit();
  void append_tokens();
  void update_forest();
  void record();
  void finish_requests();

  bool try_admit(const Waiting& waiting);
  void append_token(Running& running);
  void preempt_newest();
  /// The request has its last token: it leaves the tree, and its branches begin.
  void finish(const Running& running);
  void begin_branches(std::int32_t request, RequestId fork_from, std::vector<Waiting>& without_room);
  void verify() const;

  const trace::Trace& trace_;
  const Options options_;
  PagePool pool_;
  PrefixTree tree_;
  Forest forest_;
  Deltas deltas_;  // from the last step to the next
  Arrivals arrivals_;

  std::deque<Waiting> waiting_;
  std::vector<Running> running_;  // in order of admission: the newest last
  std::int64_t retry_at_ = 0;     // available pages at which the head of the queue is worth another try
  double clock_ = 0;
  Step current_;
  Totals totals_;
  std::vector<std::int32_t> tokens_;  // scratch
};

}  // namespace trunkline::sim
