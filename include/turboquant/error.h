// Errors of the TurboQuant library.
#pragma once

#include <stdexcept>
#include <string>

namespace turboquant {

/// Bad input, an unreadable file, an unsupported model: one line that says what is wrong, where, and what to do.
/// The command prints `what()` after "error: " and exits with 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A wrong option or argument value. The command exits with 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// The user pressed Ctrl-C. The command exits with 130.
class Interrupted : public Error {
 public:
  Interrupted() : Error("interrupted") {}
};

}  // namespace turboquant
