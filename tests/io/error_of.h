// What an Error says, for tests of bad input.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "turboquant/error.h"

namespace turboquant {

/// The text of the Error that `action` throws, which must be one line; fails the test if it throws none.
template <typename Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    return text;
  }
  ADD_FAILURE() << "no error";
  return {};
}

}  // namespace turboquant

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)
