// SHA-256 or SHA-1 of bytes that come piece by piece.
#pragma once

#include <string>
#include <string_view>

#include "rust/tq_http.h"

namespace turboquant {

class Checksum {
 public:
  enum class Kind { sha256, sha1 };

  explicit Checksum(Kind kind = Kind::sha256) : rust_(tq_digest_new(kind == Kind::sha1 ? 1 : 0)) {}
  ~Checksum() { tq_digest_free(rust_); }
  Checksum(const Checksum&) = delete;
  Checksum& operator=(const Checksum&) = delete;

  void update(std::string_view data) { tq_digest_update(rust_, data.data(), data.size()); }
  /// Of all bytes so far, in hexadecimal.
  std::string hex() const {
    TqText text{};
    tq_digest_hex(rust_, &text);
    std::string result(text.data, text.size);
    tq_text_free(text);
    return result;
  }

 private:
  TqDigest* rust_;
};

}  // namespace turboquant
