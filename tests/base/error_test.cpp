#include "trunkline/error.hpp"

#include <gtest/gtest.h>

#include "base/check.hpp"

namespace trunkline {
namespace {

TEST(Error, SaysArgumentExpectedAndGot) {
  const Error error(ErrorCode::unsupported, "config.alibi", "false", "true");
  EXPECT_STREQ(error.what(), "unsupported: config.alibi: expected false, got true");
  EXPECT_EQ(error.code(), ErrorCode::unsupported);
  EXPECT_EQ(error.argument(), "config.alibi");
  EXPECT_EQ(error.missing(), 0);
}

TEST(Error, OutOfPagesCountsTheMissing) {
  const Error error = Error::out_of_pages("tokens", 12, 5);
  EXPECT_EQ(error.code(), ErrorCode::out_of_pages);
  EXPECT_EQ(error.missing(), 7);
  EXPECT_STREQ(error.what(), "out_of_pages: tokens: expected 12 free or evictable pages, got 5 (7 missing)");
}

TEST(Error, EveryCodeHasItsName) {
  for (ErrorCode code : {ErrorCode::invalid_argument, ErrorCode::unsupported, ErrorCode::out_of_pages,
                         ErrorCode::capacity_exceeded, ErrorCode::device_error, ErrorCode::corrupt}) {
    EXPECT_STRNE(to_string(code), "unknown");
  }
}

TEST(Require, TakesNumbersAndText) {
  EXPECT_NO_THROW(require(true, "x", 1, 2));
  try {
    require(false, "num_pages", "0 or more", -3);
    FAIL() << "did not throw";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "invalid_argument: num_pages: expected 0 or more, got -3");
  }
}

}  // namespace
}  // namespace trunkline
