// What a call throws, word by word.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "trunkline/error.hpp"
#include "trunkline/system.hpp"

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

/// How a build with CUDA, or one without, refuses an argument that lies on another device than the CPU.
inline std::string wrong_device(const std::string& argument, const std::string& got) {
  return backends()[0].built
             ? "invalid_argument: " + argument + ".device: expected cpu, got " + got
             : "unsupported: " + argument + ": expected cpu, since this build has no CUDA backend, got " + got;
}

}  // namespace trunkline::test
