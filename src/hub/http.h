// HTTP as the hub needs it: redirects that keep the token at home, bodies that come in pieces, Ctrl-C at any time.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "hub/settings.h"
#include "turboquant/error.h"

struct TqRequest;

namespace turboquant {

/// The network or a busy server, not the request, is to blame: it may work later.
class NetworkError : public Error {
 public:
  using Error::Error;
};

/// An answer whose body is read piece by piece. Waiting throws Interrupted after Ctrl-C.
class HttpAnswer {
 public:
  int status() const { return status_; }
  /// Empty if there is none. `name` in lower case.
  const std::string& header(std::string_view name) const;
  /// Nothing if it is missing or no number.
  std::optional<uint64_t> number(std::string_view name) const;
  /// The address that answered, after redirects.
  const std::string& url() const { return url_; }

  /// The next piece of the body (at most 256 KiB); false at its end. NetworkError if the connection breaks.
  bool read(std::string& piece);
  /// The whole body; Error if it is larger than `max_bytes`.
  std::string text(uint64_t max_bytes);

 private:
  friend class HttpClient;
  struct Close {
    void operator()(TqRequest* request) const;
  };

  HttpAnswer(std::string_view method, std::string url, const std::string& headers, int patience_s);
  int next(std::string& data);

  std::string url_;
  int status_ = 0;
  std::map<std::string, std::string, std::less<>> headers_;
  std::unique_ptr<TqRequest, Close> request_;
};

class HttpClient {
 public:
  explicit HttpClient(const HubSettings& settings) : settings_(settings) {}

  /// Bytes `begin` to `end` (exclusive; 0: to the end) of what is there, or all of it without a range (0, 0). Follows
  /// redirects; the token goes only to the endpoint's own scheme, host and port. Any status is an answer.
  HttpAnswer get(const std::string& url, uint64_t begin = 0, uint64_t end = 0) const;
  /// What the endpoint itself says: redirects to other hosts (where the bytes are) are not followed.
  HttpAnswer head(const std::string& url) const;

 private:
  HttpAnswer send(std::string_view method, std::string url, const std::string& range, bool leave_host) const;

  HubSettings settings_;
};

/// "https://host:port" of an address, in lower case.
std::string origin_of(std::string_view url);
/// Where a Location header leads from `base`.
std::string join_url(std::string_view base, std::string_view location);
/// A whole number in decimal; nothing if the text is anything else.
std::optional<uint64_t> parse_number(std::string_view text);
/// Percent-encodes everything but letters, digits, "-._~" and the characters of `safe`.
std::string url_encode(std::string_view text, std::string_view safe = "");

}  // namespace turboquant
