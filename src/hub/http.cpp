#include "hub/http.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "core/interrupt.h"
#include "io/files.h"
#include "rust/tq_http.h"

namespace turboquant {
namespace {

constexpr uint32_t kWaitMs = 100;  // between two looks at Ctrl-C
constexpr int kMaxRedirects = 10;

std::string take(TqText text) {
  std::string result(text.data == nullptr ? "" : text.data, text.size);
  tq_text_free(text);
  return result;
}

bool is_redirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

}  // namespace

std::string origin_of(std::string_view url) {
  const size_t host = url.find("://");
  const size_t end = host == url.npos ? 0 : url.find_first_of("/?#", host + 3);
  std::string origin(url.substr(0, end));
  std::transform(origin.begin(), origin.end(), origin.begin(), [](unsigned char c) { return std::tolower(c); });
  return origin;
}

std::string join_url(std::string_view base, std::string_view location) {
  const size_t colon = location.find(':');
  if (colon != location.npos && location.substr(0, colon).find_first_of("/?#") == location.npos)
    return std::string(location);
  const std::string origin = origin_of(base);
  if (location.starts_with("//")) return origin.substr(0, origin.find(':') + 1) + std::string(location);
  if (location.starts_with('/')) return origin + std::string(location);
  const std::string_view path = base.substr(0, base.find_first_of("?#"));
  const size_t slash = path.find_last_of('/');
  return std::string(slash < origin.size() ? origin + "/" : path.substr(0, slash + 1)) + std::string(location);
}

std::optional<uint64_t> parse_number(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string url_encode(std::string_view text, std::string_view safe) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("-._~").find(c) != std::string_view::npos || safe.find(c) != safe.npos;
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

void HttpAnswer::Close::operator()(TqRequest* request) const { tq_http_free(request); }

HttpAnswer::HttpAnswer(std::string_view method, std::string url, const std::string& headers, int patience_s)
    : url_(std::move(url)) {
  TqRequest* request = nullptr;
  TqText error{};
  if (tq_http_start(method.data(), method.size(), url_.data(), url_.size(), headers.data(), headers.size(),
                    static_cast<uint32_t>(patience_s), &request, &error) != 0)
    throw Error(quote(url_) + ": " + take(error));
  request_.reset(request);
  std::string head;
  if (next(head) != tq_http_head) throw NetworkError("cannot reach " + origin_of(url_) + ": no answer");
  for (size_t begin = 0; begin < head.size();) {
    const size_t end = std::min(head.find('\n', begin), head.size());
    const std::string line = head.substr(begin, end - begin);
    // Of a header that comes twice the first counts.
    if (const size_t colon = line.find(": "); colon != line.npos)
      headers_.emplace(line.substr(0, colon), line.substr(colon + 2));
    begin = end + 1;
  }
}

int HttpAnswer::next(std::string& data) {
  for (;;) {
    check_interrupt();
    int event = tq_http_pending;
    TqText text{}, error{};
    if (tq_http_next(request_.get(), kWaitMs, &event, &status_, &text, &error) != 0)
      throw NetworkError((status_ == 0 ? "cannot reach " : "connection lost to ") + origin_of(url_) + ": " +
                         take(error));
    if (event == tq_http_pending) continue;
    data = take(text);
    return event;
  }
}

const std::string& HttpAnswer::header(std::string_view name) const {
  static const std::string none;
  const auto found = headers_.find(name);
  return found == headers_.end() ? none : found->second;
}

std::optional<uint64_t> HttpAnswer::number(std::string_view name) const { return parse_number(header(name)); }

bool HttpAnswer::read(std::string& piece) { return next(piece) == tq_http_data; }

std::string HttpAnswer::text(uint64_t max_bytes) {
  std::string all, piece;
  while (read(piece)) {
    all += piece;
    if (all.size() > max_bytes) throw Error(fmt::format("{}: the answer is larger than {} bytes", url_, max_bytes));
  }
  return all;
}

HttpAnswer HttpClient::get(const std::string& url, uint64_t begin, uint64_t end) const {
  std::string range;
  if (begin > 0 || end > 0)
    range = fmt::format("Range: bytes={}-{}\n", begin, end > 0 ? std::to_string(end - 1) : std::string());
  return send("GET", url, range, true);
}

HttpAnswer HttpClient::head(const std::string& url) const { return send("HEAD", url, "", false); }

HttpAnswer HttpClient::send(std::string_view method, std::string url, const std::string& range, bool leave_host) const {
  for (int redirects = 0;; ++redirects) {
    const std::string origin = origin_of(url);
    // What is stored must be what was sent: no compression on the way.
    std::string headers = "Accept-Encoding: identity\n" + range;
    if (!settings_.token.empty() && origin == origin_of(settings_.endpoint))
      headers += "Authorization: Bearer " + settings_.token + "\n";
    HttpAnswer answer(method, url, headers, settings_.patience_s);
    const std::string& location = answer.header("location");
    if (!is_redirect(answer.status()) || location.empty()) return answer;
    std::string target = join_url(url, location);
    const std::string there = origin_of(target);
    if (!leave_host && there != origin) return answer;
    if (redirects == kMaxRedirects) throw Error(url + ": more than " + std::to_string(kMaxRedirects) + " redirects");
    if (there.starts_with("https://") || (there.starts_with("http://") && !origin.starts_with("https://")))
      url = std::move(target);
    else
      throw Error(origin + " redirects to " + quote(there) + ", which is not secure; nothing was read from there");
  }
}

}  // namespace turboquant
