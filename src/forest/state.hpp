// What a Forest is made of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include "forest/page_table.hpp"
#include "forest/request_index.hpp"
#include "forest/sharing_tree.hpp"
#include "trunkline/forest.hpp"

namespace trunkline {
namespace forest {

/// Memory that `advance` uses from step to step; means nothing between calls.
struct Scratch {
  /// A request that a step changes, as it will be afterwards.
  struct Touched {
    static constexpr std::int32_t unchanged = std::numeric_limits<std::int32_t>::max();

    std::int32_t row;
    std::int32_t seq_len, qo_len;
    std::int32_t changed_from;  // position of the first token that is new or lies in another page
    bool leaves;
  };
  /// A request whose nodes change from a position on.
  struct Moved {
    std::int32_t row, changed_from;
  };

  SharingTree tree;
  std::vector<Touched> touched;
  std::vector<std::int32_t> touched_of_row;                       // index into `touched`, or `none`
  std::vector<std::int32_t> leave_rows, replace_rows, grow_rows;  // of the deltas' lists
  std::vector<Moved> moved;
};

struct State {
  State();
  /// A uid of its own, version 0.
  State(const State& other);
  State& operator=(const State&) = delete;

  int page_size = 0;
  std::int32_t max_page = 0;  // the largest legal one
  std::uint64_t uid;
  std::uint64_t version = 0;
  std::vector<Forest::TableChange> changes;

  // By the caller's index.
  std::vector<std::int32_t> seq_lens, qo_lens, table_rows;
  std::vector<RequestId> request_ids;
  std::int64_t num_query_tokens = 0, total_tokens = 0;

  // By table row.
  PageTable table;
  std::vector<std::int32_t> end_nodes;  // the node the request ends in, `none` without tokens
  std::vector<std::int32_t> requests;   // the caller's index
  RequestIndex index;                   // of every request

  std::vector<Node> nodes;
  std::vector<std::int32_t> request_order;
  std::int64_t distinct_tokens = 0;

  Scratch scratch;  // not copied

  /// Builds from nothing; lengths and options are checked already. `pages_of(request)` gives its
  /// ceil(seq_len / page_size) pages, valid until the next call. Throws for bad pages and for ids that come twice.
  void build(int tokens_per_page, std::span<const std::int32_t> lengths, const BatchOptions& options,
             const std::function<std::span<const std::int32_t>(std::size_t)>& pages_of);
  /// A new last request, without a node yet and not in the index. Returns its row.
  std::int32_t add_request(RequestId id, std::int32_t seq_len, std::int32_t qo_len,
                           std::span<const std::int32_t> pages);
  /// Makes nodes and order from the scratch tree; end_nodes hold that tree's.
  void emit();
  void advance(const Deltas& deltas);

 private:
  void write_tables(const Deltas& deltas);
  void update_requests();
  void remove_requests();
  void join_requests(const Deltas& deltas);
  void restructure();
};

}  // namespace forest

struct Forest::Impl : forest::State {};

}  // namespace trunkline
