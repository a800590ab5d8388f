// Random sequences of operations against the naive model of fake_engine.hpp.
#include <rapidcheck.h>

#include <algorithm>
#include <string>
#include <utility>

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

enum class Kind { insert, append, commit, fork, remove, lock, unlock, evict };

struct Operation {
  Kind kind;
  unsigned a, b;  // chosen freely, taken modulo what there is to choose from
  Tokens tokens;
};

void showValue(const Operation& operation, std::ostream& os) {
  os << "{Kind(" << static_cast<int>(operation.kind) << "), " << operation.a << ", " << operation.b << ", ";
  rc::show(operation.tokens, os);
  os << "}";
}

rc::Gen<Operation> any_operation() {
  // Inserts, appends and commits come more often than what takes requests away.
  const auto kind = rc::gen::weightedElement<Kind>({{5, Kind::insert},
                                                    {6, Kind::append},
                                                    {7, Kind::commit},
                                                    {2, Kind::fork},
                                                    {4, Kind::remove},
                                                    {1, Kind::lock},
                                                    {1, Kind::unlock},
                                                    {1, Kind::evict}});
  // Three letters: common prefixes and divergences at every depth.
  const auto tokens = rc::gen::resize(14, rc::gen::container<Tokens>(rc::gen::inRange<std::int32_t>(0, 3)));
  return rc::gen::construct<Operation>(kind, rc::gen::inRange(0u, 1000u), rc::gen::inRange(0u, 1000u), tokens);
}

class Player {
 public:
  Player(std::int32_t num_pages, int page_size, bool names_late) : engine_(num_pages, page_size, names_late) {}

  void play(const Operation& operation) {
    const Snapshot before(engine_);
    try {
      dispatch(operation);
    } catch (const Error& error) {
      RC_ASSERT(error.code() == ErrorCode::out_of_pages);
      RC_ASSERT(error.missing() > 0);
      RC_ASSERT(operation.kind == Kind::insert || Snapshot(engine_) == before);
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
    switch (op.kind) {
      case Kind::insert:
        return insert(op);
      case Kind::lock: {
        const Tokens wanted = part_of_known(op);
        const PrefixLock lock = engine_.tree.lock(wanted);
        locked_.emplace_back(lock.id, first(wanted, lock.num_tokens));
        return;
      }
      case Kind::unlock:
        if (!locked_.empty()) {
          const auto chosen = locked_.begin() + static_cast<std::ptrdiff_t>(op.a % locked_.size());
          engine_.tree.unlock(chosen->first);
          locked_.erase(chosen);
        }
        return;
      case Kind::evict: {
        const auto wanted = static_cast<std::int32_t>(op.a % 4);
        const auto cached = static_cast<std::int32_t>(engine_.tree.stats().pages_cached);
        RC_ASSERT(engine_.tree.evict(wanted) == std::min(wanted, cached));
        return;
      }
      default:
        if (!engine_.requests.empty()) {
          const auto chosen = static_cast<std::ptrdiff_t>(op.a % engine_.requests.size());
          change(op, std::next(engine_.requests.begin(), chosen)->first);
        }
    }
  }

  /// Some prefix of something that was committed once.
  Tokens part_of_known(const Operation& op) const {
    if (engine_.committed.empty()) {
      return {};
    }
    const Tokens& known = engine_.committed[op.a % engine_.committed.size()];
    return first(known, static_cast<std::int32_t>(op.b % (known.size() + 1)));
  }

  void insert(const Operation& op) {
    // Mostly the continuation of something known, sometimes with the last token left to compute.
    const Tokens prompt = op.a % 4 == 0 ? op.tokens : part_of_known(op) + op.tokens;
    const auto length = static_cast<std::int32_t>(prompt.size());
    const std::int32_t limit = op.b % 3 == 0 && length > 0 ? length - 1 : length;
    const Snapshot before(engine_);
    try {
      engine_.insert(prompt, limit);
    } catch (const Error& error) {
      RC_ASSERT(Snapshot(engine_) == before);
      // It was right to fail: with the cached prefix held, so many pages can be had and not one more.
      const PrefixLock lock = engine_.tree.lock(first(prompt, limit));
      RC_ASSERT(error.missing() == std::stoll(error.expected()) - engine_.tree.num_available_pages());
      engine_.tree.unlock(lock.id);
      throw;
    }
  }

  void change(const Operation& op, RequestId id) {
    const FakeEngine::Request& request = engine_.requests.at(id);
    const auto length = static_cast<std::int32_t>(request.tokens.size());
    const std::int32_t open = length - request.committed;
    switch (op.kind) {
      case Kind::append:
        return engine_.append(id, first(op.tokens, std::min(5, static_cast<std::int32_t>(op.tokens.size()))));
      case Kind::commit:
        return engine_.commit(id, op.b % 2 == 0 ? length : length - static_cast<std::int32_t>(op.b) % (open + 1));
      case Kind::fork:
        if (open == 0) {
          engine_.fork(id);
        }
        return;
      default:
        return engine_.remove(id);
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
    Player player(num_pages, page_size, *rc::gen::arbitrary<bool>());
    for (const Operation& operation : operations) {
      player.play(operation);
    }
    RC_TAG(player.exhausted > 0 ? "ran out of pages" : "had pages enough");
    player.finish();
  }));
}

}  // namespace
}  // namespace trunkline
