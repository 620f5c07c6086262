// What the calls of the Rust crate share: its texts, its errors, its tokenizer.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

#include "rust/tq_text.h"
#include "text/tokenizer.h"
#include "turboquant/error.h"

namespace turboquant {

/// Takes over what Rust has given out and frees it.
inline std::string take(TqText text) {
  std::string result(text.data == nullptr ? "" : text.data, text.size);
  tq_text_free(text);
  return result;
}

/// Throws if `status` is not 0; `what` says what was being done.
inline void check(int status, TqText error, std::string_view what) {
  if (status != 0) throw Error(fmt::format("{}: {}", what, take(error)));
}

struct Tokenizer::Handle {
  TqTokenizer* rust = nullptr;
  std::string name;

  explicit Handle(std::string file) : name(std::move(file)) {}
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() { tq_tokenizer_free(rust); }
};

}  // namespace turboquant
