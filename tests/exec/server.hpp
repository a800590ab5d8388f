// A server's batch of requests that share prefixes, step by step.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "trunkline/trunkline.hpp"

namespace trunkline::test {

/// Requests join, grow, have pages replaced, and leave: at most 10 at a time, each of at most 200 pages over 50 steps.
/// It keeps the truth as plain lists.
class Server {
 public:
  static constexpr int page_size = 4;

  explicit Server(unsigned seed) : random_(seed) {
    for (int r = 0; r < 6; ++r) join();
    deltas_.clear();
    forest_ = fresh();
  }

  struct Request {
    RequestId id;
    std::int32_t seq_len;
    std::vector<std::int32_t> pages;
  };

  const Forest& forest() const { return forest_; }
  const std::vector<Request>& requests() const { return requests_; }
  int num_pages() const { return next_page_; }

  Forest fresh() const {
    std::vector<std::int32_t> indptr{0}, indices, seq_lens;
    std::vector<RequestId> ids;
    for (const Request& request : requests_) {
      indices.insert(indices.end(), request.pages.begin(), request.pages.end());
      indptr.push_back(static_cast<std::int32_t>(indices.size()));
      seq_lens.push_back(request.seq_len);
      ids.push_back(request.id);
    }
    BatchOptions options;
    options.request_ids = ids;
    return Forest::from_block_tables(BlockTables::csr(indptr, indices), seq_lens, page_size, options);
  }

  void step() {
    deltas_.clear();
    if (requests_.size() > 3 && chance(4)) leave();
    if (chance(3)) replace();
    for (Request& request : requests_) grow(request, 1 + (chance(5) ? 6 : 0));
    if (requests_.size() < 10 && chance(3)) join();
    forest_.advance(deltas_);
  }

  /// Behind the forest's back.
  void drop_first() { requests_.erase(requests_.begin()); }

  void leave() {
    const std::size_t which = random_() % requests_.size();
    deltas_.leave.push_back(requests_[which].id);
    requests_.erase(requests_.begin() + static_cast<std::ptrdiff_t>(which));
  }

 private:
  bool chance(unsigned one_in) { return random_() % one_in == 0; }

  void join() {
    Request request{next_id_++, 0, {}};
    // Two families of prompts, shared for up to 5 pages.
    const int family = static_cast<int>(random_() % 2), shared = 1 + static_cast<int>(random_() % 5);
    for (int page = 0; page < shared; ++page) request.pages.push_back(family * 5 + page);
    const int own = static_cast<int>(random_() % 4);
    for (int page = 0; page < own; ++page) request.pages.push_back(next_page_++);
    request.seq_len = static_cast<std::int32_t>(request.pages.size()) * page_size;
    if (own > 0) request.seq_len -= static_cast<std::int32_t>(random_() % page_size);
    deltas_.join.push_back({request.id, request.seq_len, 1, request.pages});
    requests_.push_back(request);
  }

  void grow(Request& request, std::int32_t tokens) {
    Deltas::Growth growth{request.id, tokens, {}};
    request.seq_len += tokens;
    while (static_cast<std::int32_t>(request.pages.size()) * page_size < request.seq_len) {
      growth.pages.push_back(next_page_);
      request.pages.push_back(next_page_++);
    }
    deltas_.grow.push_back(growth);
  }

  void replace() {
    Request& request = requests_[random_() % requests_.size()];
    const auto at = static_cast<std::int32_t>(random_() % request.pages.size());
    request.pages[at] = next_page_;
    deltas_.replace.push_back({request.id, at, {next_page_++}});
  }

  std::mt19937 random_;
  std::vector<Request> requests_;
  Deltas deltas_;
  Forest forest_;
  RequestId next_id_ = 0;
  std::int32_t next_page_ = 10;
};

}  // namespace trunkline::test
