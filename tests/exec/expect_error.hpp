// What a call throws, word by word.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "trunkline/error.hpp"

namespace trunkline::test {

template <class Call>
void expect_error(Call&& call, const std::string& what) {
  try {
    call();
    ADD_FAILURE() << "nothing was thrown, expected: " << what;
  } catch (const Error& error) {
    EXPECT_EQ(error.what(), what);
  }
}

}  // namespace trunkline::test
