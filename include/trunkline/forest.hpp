// The forest: which runs of tokens the requests of a batch share. The one input of planning.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace trunkline {

class PrefixTree;

/// Stable name of a request across steps, chosen by the caller (or by PrefixTree).
using RequestId = std::int64_t;

/// Block tables as an engine holds them; a view. Entry j of a request is the page of its tokens
/// [j * page_size, (j + 1) * page_size). Entries from ceil(seq_len / page_size) on are never read.
struct BlockTables {
  /// Row-major [num_requests, row_stride]; the first max_pages of each row may be read. row_stride 0 means max_pages.
  /// Both makers throw invalid_argument when the sizes do not agree.
  static BlockTables dense(std::span<const std::int32_t> entries, int num_requests, int max_pages, int row_stride = 0);
  /// Request r owns indices[indptr[r] .. indptr[r + 1]). indptr has num_requests + 1 ascending entries.
  static BlockTables csr(std::span<const std::int32_t> indptr, std::span<const std::int32_t> indices);

  std::span<const std::int32_t> entries;
  std::span<const std::int32_t> indptr;  // empty: dense
  int num_requests = 0;
  int max_pages = 0;
  int row_stride = 0;
};

/// What a builder may be told beside the tables.
struct BatchOptions {
  /// New query tokens per request, its last ones; empty: 1 each. 0 is legal; at most seq_len, except that any number is
  /// legal for a request without tokens, whose query tokens then see nothing.
  std::span<const std::int32_t> qo_lens;
  std::span<const RequestId> request_ids;  // unique; empty: 0, 1, 2, ...
  /// When positive, every page is checked to lie in [0, num_pages), those of later deltas too; 0: pages are only
  /// checked not to be negative.
  std::int64_t num_pages = 0;
};

/// One level of nested groups declared by the user (the cascade form): group g holds requests
/// [request_indptr[g], request_indptr[g + 1]) and the pages page_indices[page_indptr[g] .. page_indptr[g + 1]), filled
/// with num_tokens[g] tokens: ceil(num_tokens[g] / page_size) pages. Levels go from the root down; groups of a level
/// must lie within groups of the level above, and those of level 0 start at request 0 and make up the batch. A group
/// may hold no tokens. Every level but a request's last with tokens must fill its pages completely, because token t
/// lies in slot t % page_size.
struct Level {
  std::span<const std::int32_t> request_indptr;
  std::span<const std::int32_t> page_indptr;
  std::span<const std::int32_t> page_indices;
  std::span<const std::int32_t> num_tokens;
};

/// A run of tokens shared by the same set of requests.
struct Node {
  std::int32_t parent;         // index of the parent node, -1 for a root
  std::int32_t first_token;    // absolute position
  std::int32_t num_tokens;     // > 0
  std::int32_t request_begin;  // requests that share it, in the forest's order
  std::int32_t request_end;    // exclusive
  friend bool operator==(const Node&, const Node&) = default;
};

/// What happened between two steps. Applied in this order: leave, replace, grow, qo_lens, join. A request may be named
/// several times, but a request that leaves can be named again only by `join`.
struct Deltas {
  struct Growth {  // `num_tokens` >= 0 tokens and exactly the pages they newly need were appended
    RequestId request;
    std::int32_t num_tokens;
    std::vector<std::int32_t> pages;
  };
  struct Replacement {  // table entries [first_page, first_page + pages.size()) now name other pages
    RequestId request;
    std::int32_t first_page;
    std::vector<std::int32_t> pages;
  };
  struct Join {
    RequestId request;
    std::int32_t seq_len;
    std::int32_t qo_len = 1;
    std::vector<std::int32_t> pages;  // ceil(seq_len / page_size)
  };
  struct QoLen {  // number of query tokens from this step on; it stays until changed
    RequestId request;
    std::int32_t qo_len;
  };
  std::vector<RequestId> leave;
  std::vector<Replacement> replace;
  std::vector<Growth> grow;
  std::vector<QoLen> qo_lens;
  std::vector<Join> join;

  void clear();
};

/// The nodes of a batch in depth-first order, and the block tables they came from. Owns copies; the caller's arrays may
/// go after the call. Safe to read from several threads.
///
/// Canonical: among siblings, the one holding the smallest caller's index comes first; requests that end in a node come
/// before the node's children, in the caller's order. Requests without tokens are in no node and come before all roots,
/// in the caller's order. Two forests of the same batch are equal however they were made.
///
/// Memory is one row as wide as the longest request for each request, in virtual memory: what a row does not use is
/// never touched.
class Forest {
 public:
  /// No requests; equal to any forest of none with the same page_size, which is 0 here. It cannot advance.
  Forest();
  ~Forest();
  /// A copy has a uid of its own, for the two may advance differently. A moved-from forest is like a new one.
  Forest(const Forest&);
  Forest(Forest&&) noexcept;
  Forest& operator=(const Forest&);
  Forest& operator=(Forest&&) noexcept;

  /// Finds sharing by equal page indices at equal positions: prefix-closed, any depth, several roots. It looks at no
  /// token and needs no declaration; the cost is one pass over the used entries. seq_lens[r] >= 0 is the number of
  /// tokens of request r in the KV cache, the newest included; qo_lens[r] new query tokens are its last ones. page_size
  /// is 1 to 1024. Throws invalid_argument.
  static Forest from_block_tables(const BlockTables& tables, std::span<const std::int32_t> seq_lens, int page_size,
                                  const BatchOptions& options = {});
  /// From the requests' block tables in our own tree; request ids are the tree's. Throws invalid_argument for a request
  /// the tree does not have or that is named twice, and for qo_lens as above.
  static Forest from_tree(const PrefixTree& tree, std::span<const RequestId> requests,
                          std::span<const std::int32_t> qo_lens = {});
  /// From nested groups declared by the user: the block tables are the groups' pages from level 0 down, and sharing is
  /// found in them, so equal pages are shared also where no group says so. Throws invalid_argument.
  static Forest from_levels(std::span<const Level> levels, int page_size, const BatchOptions& options = {});

  /// Makes the next step's forest of this one. Requests keep their order, those that leave are taken out, those that
  /// join come last in the order given. The cost follows the changes, the nodes and the requests, not the tokens: only
  /// a request that joins, or whose pages are replaced, is compared with those it meets from there on. Throws
  /// invalid_argument and then changes nothing.
  void advance(const Deltas& deltas);

  int page_size() const noexcept;
  int num_requests() const noexcept;
  std::span<const Node> nodes() const noexcept;
  /// Forest position -> caller's index.
  std::span<const std::int32_t> request_order() const noexcept;
  // By the caller's index:
  std::span<const std::int32_t> seq_lens() const noexcept;
  std::span<const std::int32_t> qo_lens() const noexcept;
  std::span<const RequestId> request_ids() const noexcept;
  std::span<const std::int32_t> table_rows() const noexcept;  // the request's row of `table()`, stable while it stays

  /// The block tables, row-major [num_rows, row_stride]; only the first ceil(seq_len / page_size) entries of a row that
  /// is in use mean anything. `advance` may change num_rows and row_stride; entry j of a row stays entry j.
  struct Table {
    std::span<const std::int32_t> entries;
    int num_rows = 0;
    int row_stride = 0;
  };
  Table table() const noexcept;

  /// Identity and age, so that a copy of the table elsewhere is refreshed by the changes alone: a holder of
  /// (uid, version - 1) needs `table_changes()`, anyone else the whole table. A built forest has a new uid and version
  /// 0; every advance, also by empty deltas, adds 1.
  std::uint64_t uid() const noexcept;
  std::uint64_t version() const noexcept;
  struct TableChange {
    std::int32_t row, begin, end;  // entries [begin, end) of a row
  };
  std::span<const TableChange> table_changes() const noexcept;

  std::int64_t num_query_tokens() const noexcept;  // sum of qo_lens
  std::int64_t total_tokens() const noexcept;      // sum of seq_lens
  std::int64_t distinct_tokens() const noexcept;   // sum of the nodes' tokens
  /// total_tokens / distinct_tokens: the ideal reduction of KV reads; 1 when empty.
  double share() const noexcept;

  /// Same batch and same sharing: everything but uid, version, table rows, unused table entries and num_pages.
  friend bool operator==(const Forest& a, const Forest& b);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace trunkline
