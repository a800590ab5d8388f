// A batch of requests as plain vectors, and a naive forest made from it: what the real one is held against. No
// GoogleTest here, so that fuzzers can use it too.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trunkline/forest.hpp"

namespace trunkline::test {

struct Request {
  RequestId id = 0;
  std::int32_t seq_len = 0;
  std::int32_t qo_len = 1;
  std::vector<std::int32_t> pages;  // ceil(seq_len / page_size)
};

struct Batch {
  int page_size = 1;
  std::vector<Request> requests;

  /// Requests given as (seq_len, pages), with ids 0, 1, 2, ... and qo_len 1.
  struct Plain {
    std::int32_t seq_len;
    std::vector<std::int32_t> pages;
  };
  static Batch of(int page_size, const std::vector<Plain>& requests);

  /// The same through a dense table, rows padded with `spare` poisoned entries beyond the longest, ...
  Forest dense(int spare = 3, std::int64_t num_pages = 0) const;
  /// ... or through CSR, each request with `spare` poisoned entries after its own.
  Forest csr(int spare = 0, std::int64_t num_pages = 0) const;

  /// What the deltas mean, carried out plainly. They must be legal.
  void apply(const Deltas& deltas);
};

/// Arrays that a builder can be given, and the poison in the entries it must not read.
struct Tables {
  static constexpr std::int32_t poison = INT32_MIN;

  std::vector<std::int32_t> entries, indptr, seq_lens, qo_lens;
  std::vector<RequestId> ids;
  std::int32_t max_pages = 0;

  Tables(const Batch& batch, bool dense, int spare);
  BlockTables view() const;
  BatchOptions options(std::int64_t num_pages) const { return {qo_lens, ids, num_pages}; }
};

/// The forest's nodes and order from their definition, in O(requests^2 * tokens).
struct NaiveForest {
  std::vector<Node> nodes;
  std::vector<std::int32_t> request_order;

  explicit NaiveForest(const Batch& batch);
};

/// Empty when the forest is right for the batch, nodes and order included; else what is wrong.
std::string difference(const Forest& forest, const Batch& batch);

/// A copy of a forest's table kept up to date by its changes alone.
class Mirror {
 public:
  void refresh(const Forest& forest);
  /// Empty when the copy equals what the forest's requests use.
  std::string difference(const Forest& forest) const;

 private:
  std::uint64_t uid_ = 0, version_ = 0;
  std::vector<std::vector<std::int32_t>> rows_;
};

}  // namespace trunkline::test
