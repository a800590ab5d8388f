// Every error of PrefixTree: its message, and that nothing has changed.
#include <limits>

#include "tree/fake_engine.hpp"

namespace trunkline {
namespace {

class Errors : public ::testing::Test {
 protected:
  Errors() { request = engine.serve(range(0, 6)); }

  template <class Call>
  void expect_error(const std::string& message, Call&& call) {
    const Error error = error_of(call);
    EXPECT_EQ(error.what(), message);
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
    EXPECT_EQ(engine.pool.num_used(), 2);
    EXPECT_EQ(engine.tree.stats().num_nodes, 1);
    engine.verify();
  }

  FakeEngine engine{10, 4};
  RequestId request;
};

TEST_F(Errors, UnknownRequest) {
  const std::string message = "invalid_argument: request: expected a request of this tree, got 42";
  expect_error(message, [&] { engine.tree.append(42, Tokens{1}); });
  expect_error(message, [&] { engine.tree.commit(42, 0); });
  expect_error(message, [&] { engine.tree.fork(42); });
  expect_error(message, [&] { engine.tree.remove(42); });
  expect_error(message, [&] { static_cast<void>(engine.tree.seq_len(42)); });
  expect_error(message, [&] { static_cast<void>(engine.tree.num_committed(42)); });
  expect_error(message, [&] { static_cast<void>(engine.tree.block_table(42)); });
  EXPECT_FALSE(engine.tree.contains(42));
}

TEST_F(Errors, DoubleRemove) {
  const RequestId other = engine.serve(range(0, 6));
  engine.remove(other);
  expect_error("invalid_argument: request: expected a request of this tree, got " + std::to_string(other),
               [&] { engine.tree.remove(other); });
}

TEST_F(Errors, UnknownLockAndDoubleUnlock) {
  expect_error("invalid_argument: lock: expected a lock of this tree, got 7", [&] { engine.tree.unlock(7); });
  const PrefixLock lock = engine.tree.lock(range(0, 6));
  engine.tree.unlock(lock.id);
  expect_error("invalid_argument: lock: expected a lock of this tree, got " + std::to_string(lock.id),
               [&] { engine.tree.unlock(lock.id); });
}

TEST_F(Errors, NegativeToken) {
  const Tokens bad{0, 1, -5, -6};
  const std::string message = "invalid_argument: tokens[2]: expected at least 0, got -5";
  expect_error(message, [&] { engine.tree.insert(bad); });
  expect_error(message, [&] { engine.tree.append(request, bad); });
  expect_error(message, [&] { engine.tree.lock(bad); });
  expect_error(message, [&] { static_cast<void>(engine.tree.match_prefix(bad)); });
  expect_error(message, [&] { static_cast<void>(engine.tree.match_length(bad)); });
}

TEST_F(Errors, CommitOutOfRange) {
  const std::string expected = "invalid_argument: num_tokens: expected from 6 (committed) to 6 (seq_len), got ";
  expect_error(expected + "7", [&] { engine.tree.commit(request, 7); });
  expect_error(expected + "5", [&] { engine.tree.commit(request, 5); });
  expect_error(expected + "-1", [&] { engine.tree.commit(request, -1); });
}

TEST_F(Errors, CommitNamesTokens) {
  engine.append(request, {6, 7});
  expect_error("invalid_argument: last_tokens: expected at most the 1 tokens that are committed now, got 2",
               [&] { engine.tree.commit(request, 7, Tokens{6, 7}); });
  expect_error("invalid_argument: last_tokens[1]: expected at least 0, got -1",
               [&] { engine.tree.commit(request, 8, Tokens{6, -1}); });
}

TEST_F(Errors, ForkOfUncommittedTokens) {
  engine.append(request, {6});
  expect_error("invalid_argument: request: expected all 7 tokens committed, got 6 committed",
               [&] { engine.tree.fork(request); });
}

TEST_F(Errors, NegativeCounts) {
  expect_error("invalid_argument: max_cached_tokens: expected at least 0, got -1",
               [&] { engine.tree.insert(range(0, 3), -1); });
  expect_error("invalid_argument: num_pages: expected at least 0, got -3", [&] { engine.tree.evict(-3); });
}

TEST_F(Errors, RequestLongerThanAPositionCanSay) {
  // A view this long over little memory: the length is refused before a token is read.
  const Tokens few(1);
  const std::span<const std::int32_t> tokens(few.data(), std::size_t{1} << 31);
  expect_error("invalid_argument: tokens: expected at most 2147483647 tokens, got 2147483648",
               [&] { engine.tree.insert(tokens); });
}

TEST_F(Errors, IntegrityCheckFindsAForeignReference) {
  const std::int32_t page = engine.table(request).front();
  engine.pool.retain(page);
  const Error error = error_of([&] { engine.tree.check_integrity(); });
  EXPECT_EQ(error.code(), ErrorCode::corrupt);
  EXPECT_STREQ(error.what(), "corrupt: page 0 references: expected 2, got 3");
  engine.pool.release(page);
  engine.verify();
}

}  // namespace
}  // namespace trunkline
