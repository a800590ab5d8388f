// Random sequences of operations against the naive model of fake_engine.hpp.
#include <rapidcheck.h>

#include <algorithm>
#include <tuple>

#include "tree/fake_engine.hpp"

namespace trunkline {
namespace {

/// What an operation that ran out of pages must leave as it was.
struct Snapshot {
  std::map<RequestId, Tokens> tables;
  std::vector<std::int32_t> matches;
  std::int32_t free, available;
  std::int64_t nodes, filled_slots, inserted;
  friend bool operator==(const Snapshot&, const Snapshot&) = default;

  explicit Snapshot(const FakeEngine& engine) {
    for (const auto& [id, request] : engine.requests) {
      tables[id] = engine.table(id);
    }
    for (const Tokens& tokens : engine.committed) {
      matches.push_back(engine.tree.match_length(tokens));
    }
    free = engine.pool.num_free();
    available = engine.tree.num_available_pages();
    const PrefixTreeStats stats = engine.tree.stats();
    nodes = stats.num_nodes;
    filled_slots = stats.filled_slots;
    inserted = stats.requests_inserted;
  }
};

struct Operation {
  int kind;
  unsigned a, b;
  Tokens tokens;
};

void showValue(const Operation& operation, std::ostream& os) {
  os << "{" << operation.kind << ", " << operation.a << ", " << operation.b << ", {";
  for (const std::int32_t token : operation.tokens) {
    os << token << ", ";
  }
  os << "}}";
}

rc::Gen<Operation> any_operation() {
  // Inserts, appends and commits come more often than what takes requests away.
  const auto kind = rc::gen::weightedElement<int>({{5, 0}, {6, 1}, {7, 2}, {2, 3}, {4, 4}, {1, 5}, {1, 6}, {1, 7}});
  // Three letters: common prefixes and divergences at every depth.
  const auto tokens = rc::gen::resize(14, rc::gen::container<Tokens>(rc::gen::inRange<std::int32_t>(0, 3)));
  return rc::gen::construct<Operation>(kind, rc::gen::inRange(0u, 1000u), rc::gen::inRange(0u, 1000u), tokens);
}

class Player {
 public:
  Player(std::int32_t num_pages, int page_size) : engine_(num_pages, page_size) {}

  void play(const Operation& operation) {
    const Snapshot before(engine_);
    try {
      dispatch(operation);
    } catch (const Error& error) {
      RC_ASSERT(error.code() == ErrorCode::out_of_pages);
      RC_ASSERT(error.missing() > 0);
      RC_ASSERT(Snapshot(engine_) == before);
      ++exhausted;
    }
    engine_.verify();
    for (const auto& [id, tokens] : locked_) {
      RC_ASSERT(engine_.tree.match_length(tokens) == static_cast<std::int32_t>(tokens.size()));
    }
    const PrefixTreeStats stats = engine_.tree.stats();
    RC_ASSERT(stats.pages_in_use + stats.pages_cached + stats.pages_free == engine_.pool.num_pages());
  }

  /// What is counted as evictable can be evicted, and without requests and locks that is everything.
  void finish() {
    const std::int64_t cached = engine_.tree.stats().pages_cached;
    RC_ASSERT(engine_.tree.evict(PrefixTree::no_limit) == cached);
    RC_ASSERT(engine_.tree.stats().pages_cached == 0);
    engine_.verify();
    while (!engine_.requests.empty()) {
      engine_.remove(engine_.requests.begin()->first);
    }
    for (const auto& [id, tokens] : locked_) {
      engine_.tree.unlock(id);
    }
    const PrefixTreeStats stats = engine_.tree.stats();
    RC_ASSERT(stats.pages_in_use == 0);
    RC_ASSERT(engine_.tree.evict(PrefixTree::no_limit) == stats.pages_cached);
    RC_ASSERT(engine_.pool.num_free() == engine_.pool.num_pages());
    RC_ASSERT(engine_.tree.stats().num_nodes == 0);
    RC_ASSERT(engine_.tree.stats().filled_slots == 0);
    engine_.verify();
  }

  int exhausted = 0;

 private:
  void dispatch(const Operation& op) {
    if (op.kind == 0) {
      // Often the continuation of something known, sometimes with the last token left to compute.
      Tokens prompt = op.tokens;
      if (!engine_.committed.empty() && op.a % 4 != 0) {
        const Tokens& known = engine_.committed[op.a % engine_.committed.size()];
        prompt = first(known, static_cast<std::int32_t>(op.b % (known.size() + 1))) + prompt;
      }
      const auto length = static_cast<std::int32_t>(prompt.size());
      engine_.insert(prompt, op.b % 3 == 0 && length > 0 ? length - 1 : PrefixTree::no_limit);
      return;
    }
    if (op.kind == 5) {
      if (!engine_.committed.empty()) {
        const Tokens& known = engine_.committed[op.a % engine_.committed.size()];
        const Tokens wanted = first(known, static_cast<std::int32_t>(op.b % (known.size() + 1)));
        const PrefixLock lock = engine_.tree.lock(wanted);
        locked_.emplace_back(lock.id, first(wanted, lock.num_tokens));
      }
      return;
    }
    if (op.kind == 6) {
      if (!locked_.empty()) {
        const auto chosen = locked_.begin() + static_cast<std::ptrdiff_t>(op.a % locked_.size());
        engine_.tree.unlock(chosen->first);
        locked_.erase(chosen);
      }
      return;
    }
    if (op.kind == 7) {
      const auto wanted = static_cast<std::int32_t>(op.a % 4);
      const auto cached = static_cast<std::int32_t>(engine_.tree.stats().pages_cached);
      RC_ASSERT(engine_.tree.evict(wanted) == std::min(wanted, cached));
      return;
    }
    if (engine_.requests.empty()) {
      return;
    }
    const auto chosen =
        std::next(engine_.requests.begin(), static_cast<std::ptrdiff_t>(op.a % engine_.requests.size()));
    const RequestId id = chosen->first;
    const auto length = static_cast<std::int32_t>(chosen->second.tokens.size());
    const std::int32_t done = chosen->second.committed;
    switch (op.kind) {
      case 1:
        engine_.append(id, first(op.tokens, std::min<std::int32_t>(5, static_cast<std::int32_t>(op.tokens.size()))));
        break;
      case 2:
        engine_.commit(id, op.b % 2 == 0 ? length : done + static_cast<std::int32_t>(op.b) % (length - done + 1));
        break;
      case 3:
        if (done == length) {
          engine_.fork(id);
        }
        break;
      default:
        engine_.remove(id);
    }
  }

  FakeEngine engine_;
  std::vector<std::pair<LockId, Tokens>> locked_;
};

TEST(PrefixTreeModel, RandomOperationsKeepEveryPromise) {
  EXPECT_TRUE(rc::check([] {
    const int page_size = *rc::gen::element(1, 2, 3, 4, 8);
    const std::int32_t num_pages = *rc::gen::inRange(3, 60);
    const auto operations = *rc::gen::scale(2.0, rc::gen::container<std::vector<Operation>>(any_operation()));
    Player player(num_pages, page_size);
    for (const Operation& operation : operations) {
      player.play(operation);
    }
    RC_TAG(player.exhausted > 0 ? "ran out of pages" : "had pages enough");
    player.finish();
  }));
}

}  // namespace
}  // namespace trunkline
