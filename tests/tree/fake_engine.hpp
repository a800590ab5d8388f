// A PrefixTree used as an engine uses it, with pages of fake memory, and everything it promises checked on the way.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "trunkline/error.hpp"
#include "trunkline/page_pool.hpp"
#include "trunkline/prefix_tree.hpp"

namespace trunkline {

using Tokens = std::vector<std::int32_t>;

/// begin, begin + 1, ..., end - 1.
inline Tokens range(std::int32_t begin, std::int32_t end) {
  Tokens tokens;
  for (std::int32_t token = begin; token < end; ++token) {
    tokens.push_back(token);
  }
  return tokens;
}

inline Tokens operator+(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

inline Tokens first(const Tokens& tokens, std::int32_t count) { return {tokens.begin(), tokens.begin() + count}; }

inline std::int32_t common_prefix(const Tokens& a, const Tokens& b) {
  std::size_t i = 0;
  while (i < a.size() && i < b.size() && a[i] == b[i]) {
    ++i;
  }
  return static_cast<std::int32_t>(i);
}

/// Fails the running test, or the running property: unlike EXPECT_EQ it leaves nothing behind when RapidCheck shrinks.
template <class A, class B>
void check_equal(const char* what, const A& expected, const B& got) {
  if (!(expected == got)) {
    std::ostringstream message;
    message << what << ": expected " << ::testing::PrintToString(expected) << ", got " << ::testing::PrintToString(got);
    throw std::logic_error(message.str());
  }
}

/// The naive model: per request its tokens, per page slot what was written there. The KV of a token depends on all
/// tokens before it, so the value written is a hash of the whole prefix: a page of equal tokens in another context is
/// caught. A slot that is taken but not committed holds a value that is its request's alone.
class FakeEngine {
 public:
  struct Request {
    Tokens tokens;
    std::int32_t committed = 0;
  };

  /// With `names_late`, appended tokens are unknown to the tree until they are committed.
  FakeEngine(std::int32_t num_pages, int page_size, bool names_late = false)
      : pool(num_pages, page_size),
        tree(pool),
        names_late_(names_late),
        memory_(static_cast<std::size_t>(num_pages * page_size)) {}

  PagePool pool;
  PrefixTree tree;
  std::map<RequestId, Request> requests;
  std::vector<Tokens> committed;  // every sequence ever committed
  std::optional<PageCopy> last_copy;
  Committed last_commit;

  RequestId insert(const Tokens& tokens, std::int32_t max_cached_tokens = PrefixTree::no_limit) {
    const std::int32_t length = static_cast<std::int32_t>(tokens.size());
    const std::int32_t expected = std::min(tree.match_length(tokens), std::min(length, max_cached_tokens));
    const Insertion insertion = tree.insert(tokens, max_cached_tokens);
    check_equal("cached tokens", expected, insertion.num_cached_tokens);
    requests[insertion.request] = {tokens, insertion.num_cached_tokens};
    carry_out(insertion.copy);
    scribble(insertion.request);
    return insertion.request;
  }

  void append(RequestId id, const Tokens& tokens) {
    const Tokens before = table(id);
    const Appended appended = tree.append(id, names_late_ ? Tokens(tokens.size(), 1) : tokens);
    Tokens expected = before;
    if (appended.copy) {
      check_equal("source of the copy", before.back(), appended.copy->src);
      expected.back() = appended.copy->dst;
    }
    expected.insert(expected.end(), appended.new_pages.begin(), appended.new_pages.end());
    check_equal("block table", expected, table(id));
    carry_out(appended.copy);
    requests[id].tokens = requests[id].tokens + tokens;
    scribble(id);
  }

  void commit(RequestId id, std::int32_t num_tokens) {
    Request& request = requests.at(id);
    for (std::int32_t t = request.committed; t < num_tokens; ++t) {
      slot(id, t) = value(request.tokens, t);
    }
    Tokens expected = table(id);
    const Tokens named(request.tokens.begin() + request.committed, request.tokens.begin() + num_tokens);
    last_commit = tree.commit(id, num_tokens, names_late_ ? named : Tokens());
    const auto replaced = expected.begin() + last_commit.first_page;
    std::copy(last_commit.pages.begin(), last_commit.pages.end(), replaced);
    check_equal("block table", expected, table(id));
    request.committed = num_tokens;
    committed.push_back(first(request.tokens, num_tokens));
  }
  void commit(RequestId id) { commit(id, static_cast<std::int32_t>(requests.at(id).tokens.size())); }

  /// insert and commit.
  RequestId serve(const Tokens& tokens) {
    const RequestId id = insert(tokens);
    commit(id);
    return id;
  }
  /// append and commit.
  void decode(RequestId id, const Tokens& tokens) {
    append(id, tokens);
    commit(id);
  }

  RequestId fork(RequestId id) {
    const RequestId copy = tree.fork(id);
    requests[copy] = requests.at(id);
    return copy;
  }

  void remove(RequestId id) {
    tree.remove(id);
    requests.erase(id);
  }

  Tokens table(RequestId id) const {
    const auto pages = tree.block_table(id);
    return {pages.begin(), pages.end()};
  }

  /// Every request reads its own tokens, every match gives pages that hold what was asked for.
  void verify() {
    tree.check_integrity();
    check_equal("requests", requests.size(), tree.requests().size());
    for (const auto& [id, request] : requests) {
      check_equal("seq_len", static_cast<std::int32_t>(request.tokens.size()), tree.seq_len(id));
      check_equal("num_committed", request.committed, tree.num_committed(id));
      for (std::int32_t t = 0; t < tree.seq_len(id); ++t) {
        check_equal("KV of a token", t < request.committed ? value(request.tokens, t) : own_value(id, t), slot(id, t));
      }
      check_equal("a request's committed tokens match", true, verify_match(request.tokens) >= request.committed);
    }
    for (const Tokens& tokens : committed) {
      verify_match(tokens);
    }
  }

  /// The longest prefix of `tokens` that was ever committed: what matches as long as nothing is evicted.
  std::int32_t longest_committed(const Tokens& tokens) const {
    std::int32_t longest = 0;
    for (const Tokens& sequence : committed) {
      longest = std::max(longest, common_prefix(sequence, tokens));
    }
    return longest;
  }

  std::int32_t verify_match(const Tokens& tokens) const {
    const PrefixMatch match = tree.match_prefix(tokens);
    check_equal("match_length", match.num_tokens, tree.match_length(tokens));
    const std::int32_t longest = longest_committed(tokens);
    check_equal("matched tokens", tree.stats().evicted_pages == 0 ? longest : std::min(longest, match.num_tokens),
                match.num_tokens);
    const int page_size = tree.page_size();
    check_equal("matched pages", (match.num_tokens + page_size - 1) / page_size, static_cast<int>(match.pages.size()));
    for (std::int32_t t = 0; t < match.num_tokens; ++t) {
      const std::int32_t page = match.pages[static_cast<std::size_t>(t / page_size)];
      check_equal("KV of a matched token", value(tokens, t),
                  memory_[static_cast<std::size_t>(page * page_size + t % page_size)]);
    }
    return match.num_tokens;
  }

 private:
  static std::int64_t value(const Tokens& tokens, std::int32_t position) {
    std::uint64_t hash = 1469598103934665603u;
    for (std::int32_t t = 0; t <= position; ++t) {
      hash = (hash ^ static_cast<std::uint64_t>(tokens[static_cast<std::size_t>(t)] + 1)) * 1099511628211u;
    }
    return static_cast<std::int64_t>(hash >> 1);
  }
  static std::int64_t own_value(RequestId id, std::int32_t position) { return -1 - (id * 100'000 + position); }

  std::int64_t& slot(RequestId id, std::int32_t position) {
    const std::int32_t page = tree.block_table(id)[static_cast<std::size_t>(position / tree.page_size())];
    return memory_[static_cast<std::size_t>(page * tree.page_size() + position % tree.page_size())];
  }

  void carry_out(const std::optional<PageCopy>& copy) {
    last_copy = copy;
    if (copy) {
      const auto at = [&](std::int32_t page) { return memory_.begin() + page * tree.page_size(); };
      std::copy_n(at(copy->src), copy->num_tokens, at(copy->dst));
      // What a copy must not be relied on to bring.
      std::fill(at(copy->dst) + copy->num_tokens, at(copy->dst + 1), poison);
    }
  }

  /// Takes the uncommitted slots: their KV comes later, and until then nobody else may see or touch them.
  void scribble(RequestId id) {
    const Request& request = requests.at(id);
    for (std::int32_t t = request.committed; t < static_cast<std::int32_t>(request.tokens.size()); ++t) {
      slot(id, t) = own_value(id, t);
    }
  }

  static constexpr std::int64_t poison = std::numeric_limits<std::int64_t>::min();
  bool names_late_;
  std::vector<std::int64_t> memory_;  // [num_pages, page_size]
};

/// Runs `call`, which must throw, and returns what it threw.
template <class Call>
Error error_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error was thrown";
  return {ErrorCode::corrupt, "", "", ""};
}

}  // namespace trunkline
