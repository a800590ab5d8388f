#include "trunkline/page_pool.hpp"

#include "tree/fake_engine.hpp"

namespace trunkline {
namespace {

TEST(PagePool, CountsUpWhenFresh) {
  PagePool pool(3, 16);
  EXPECT_EQ(pool.num_pages(), 3);
  EXPECT_EQ(pool.page_size(), 16);
  EXPECT_EQ(pool.allocate(), 0);
  EXPECT_EQ(pool.allocate(), 1);
  EXPECT_EQ(pool.allocate(), 2);
  EXPECT_EQ(pool.num_free(), 0);
}

TEST(PagePool, HandsOutReleasedPagesInTheOrderOfTheirRelease) {
  PagePool pool(5, 1);
  Tokens pages(5);
  pool.allocate(pages);
  EXPECT_EQ(pool.release(Tokens{3, 1, 4}), 3);
  Tokens again(3);
  pool.allocate(again);
  EXPECT_EQ(again, (Tokens{3, 1, 4}));
}

TEST(PagePool, APageIsFreeWhenNobodyHoldsIt) {
  PagePool pool(2, 1);
  const std::int32_t page = pool.allocate();
  pool.retain(page);
  EXPECT_EQ(pool.ref_count(page), 2);
  EXPECT_EQ(pool.release(page), 0);
  EXPECT_EQ(pool.num_free(), 1);
  EXPECT_EQ(pool.release(page), 1);
  EXPECT_EQ(pool.num_free(), 2);
  EXPECT_EQ(pool.ref_count(page), 0);
}

TEST(PagePool, RemembersItsPeak) {
  PagePool pool(4, 1);
  Tokens pages(3);
  pool.allocate(pages);
  pool.release(pages);
  pool.allocate();
  EXPECT_EQ(pool.num_used(), 1);
  EXPECT_EQ(pool.peak_used(), 3);
}

TEST(PagePool, AllocatesAllOrNothing) {
  PagePool pool(2, 1);
  Tokens pages(5, -7);
  const Error error = error_of([&] { pool.allocate(pages); });
  EXPECT_EQ(error.code(), ErrorCode::out_of_pages);
  EXPECT_EQ(error.missing(), 3);
  EXPECT_EQ(pages, Tokens(5, -7));
  EXPECT_EQ(pool.num_free(), 2);
}

TEST(PagePool, RefusesADoubleRelease) {
  PagePool pool(2, 1);
  const std::int32_t page = pool.allocate();
  pool.release(page);
  EXPECT_STREQ(error_of([&] { pool.release(page); }).what(),
               "invalid_argument: page: expected a page in use, got free page 0");
  EXPECT_EQ(pool.num_free(), 2);
}

TEST(PagePool, AReleaseThatFailsChangesNothing) {
  PagePool pool(3, 1);
  Tokens pages(3);
  pool.allocate(pages);
  pool.retain(1);
  for (const Tokens& bad : {Tokens{0, 1, 0}, Tokens{9, 0, 1, 2}, Tokens{2, -1, 1, 1}}) {
    EXPECT_EQ(error_of([&] { pool.release(bad); }).argument(), "page");
    EXPECT_EQ(pool.num_free(), 0);
    EXPECT_EQ(pool.ref_count(0), 1);
    EXPECT_EQ(pool.ref_count(1), 2);
    EXPECT_EQ(pool.ref_count(2), 1);
  }
}

TEST(PagePool, ARetainThatFailsChangesNothing) {
  PagePool pool(3, 1);
  const std::int32_t page = pool.allocate();
  EXPECT_STREQ(error_of([&] { pool.retain(Tokens{page, 2}); }).what(),
               "invalid_argument: page: expected a page in use, got free page 2");
  EXPECT_EQ(pool.ref_count(page), 1);
}

TEST(PagePool, RefusesPagesOutsideThePool) {
  PagePool pool(3, 1);
  for (const std::int32_t page : {-1, 3}) {
    const std::string message = "invalid_argument: page: expected 0 to 2, got " + std::to_string(page);
    EXPECT_EQ(error_of([&] { pool.release(page); }).what(), message);
    EXPECT_EQ(error_of([&] { pool.retain(page); }).what(), message);
    EXPECT_EQ(error_of([&] { static_cast<void>(pool.ref_count(page)); }).what(), message);
  }
}

TEST(PagePool, RefusesImpossibleSizes) {
  EXPECT_EQ(error_of([] { PagePool(0, 16); }).argument(), "num_pages");
  EXPECT_EQ(error_of([] { PagePool(-5, 16); }).got(), "-5");
  EXPECT_EQ(error_of([] { PagePool(1, 0); }).argument(), "page_size");
  EXPECT_EQ(error_of([] { PagePool(1, 1025); }).expected(), "1 to 1024");
  EXPECT_EQ(PagePool(1, 1024).page_size(), 1024);
}

}  // namespace
}  // namespace trunkline
