#include "serve/connection.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "core/clock.h"

namespace turboquant {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kStopPoll{100};
// Room for the frames of a chunked body, whose bytes count with it.
constexpr size_t kFrames = 4096;
// A connection that ends early is read a little longer: the client may still be writing, and would miss the answer.
constexpr milliseconds kLinger{2000};

bool wait_for(int socket, short what, milliseconds time) {
  pollfd entry{socket, what, 0};
  return ::poll(&entry, 1, static_cast<int>(std::max<int64_t>(time.count(), 0))) > 0;
}

milliseconds until(Clock::time_point deadline) { return std::chrono::ceil<milliseconds>(deadline - Clock::now()); }

void ip_and_port(const sockaddr_storage& address, std::string& ip, int& port) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (address.ss_family == AF_INET) {
    sockaddr_in v4{};
    std::memcpy(&v4, &address, sizeof v4);
    ::inet_ntop(AF_INET, &v4.sin_addr, text.data(), text.size());
    port = ntohs(v4.sin_port);
  } else if (address.ss_family == AF_INET6) {
    sockaddr_in6 v6{};
    std::memcpy(&v6, &address, sizeof v6);
    ::inet_ntop(AF_INET6, &v6.sin6_addr, text.data(), text.size());
    port = ntohs(v6.sin6_port);
  }
  ip = text.data();
}

}  // namespace

bool Connection::wait_for_request(const std::atomic<bool>& stopping) {
  const auto idle_end = Clock::now() + limits_.idle;
  while (begin_ == end_) {
    if (stopping || Clock::now() >= idle_end) return false;
    if (!wait_for(socket_, POLLIN, std::min(kStopPoll, until(idle_end)))) continue;
    if (closed()) return false;
    break;
  }
  deadline_ = Clock::now() + limits_.request;
  budget_ = limits_.header_bytes;
  in_body_ = chunked_ = false;
  body_left_ = 0;
  trouble_ = Trouble::none;
  return true;
}

void Connection::begin_body(const httplib::Request& request) {
  in_body_ = true;
  chunked_ = request.has_header("Transfer-Encoding");
  const std::string length = request.get_header_value("Content-Length");
  std::from_chars(length.data(), length.data() + length.size(), body_left_);
  budget_ = chunked_ ? limits_.body_bytes + kFrames : body_left_;
  if (chunked_) body_left_ = 1;  // until its last frame, which the library reads
  if (!chunked_ && body_left_ > limits_.body_bytes) fail(Trouble::long_body);
}

void Connection::refuse_body() {
  if (body_left_ > 0) give_up();
}

ssize_t Connection::fail(Trouble trouble) {
  if (trouble_ == Trouble::none) trouble_ = trouble;
  return -1;
}

ssize_t Connection::read(char* data, size_t size) {
  if (trouble_ != Trouble::none) return -1;
  if (in_body_ && !chunked_ && body_left_ == 0) return 0;  // all of it was read, or it has no length
  if (budget_ == 0) return fail(in_body_ ? Trouble::long_body : Trouble::long_headers);
  if (begin_ == end_) {
    if (!wait_for(socket_, POLLIN, until(deadline_))) return fail(Trouble::slow);
    const ssize_t got = ::recv(socket_, buffer_.data(), buffer_.size(), 0);
    if (got <= 0) return fail(Trouble::gone);
    begin_ = 0;
    end_ = static_cast<size_t>(got);
  }
  const size_t count = std::min({size, end_ - begin_, budget_});
  std::memcpy(data, buffer_.data() + begin_, count);
  begin_ += count;
  budget_ -= count;
  if (in_body_ && !chunked_) body_left_ -= count;
  return static_cast<ssize_t>(count);
}

ssize_t Connection::write(const char* data, size_t size) {
  if (chunked_) body_left_ = 0;  // an answer follows the whole body; one to a part of it ends with trouble()
  size_t done = 0;
  while (done < size) {
    const ssize_t sent = ::send(socket_, data + done, size - done, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      done += static_cast<size_t>(sent);
    } else if (sent < 0 && errno == EINTR) {
      continue;
    } else if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      if (!wait_for(socket_, POLLOUT, limits_.write)) return -1;
    } else {
      return -1;
    }
  }
  return static_cast<ssize_t>(size);
}

bool Connection::closed() const {
  char byte = 0;
  const ssize_t got = ::recv(socket_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

void Connection::finish() {
  ::shutdown(socket_, SHUT_WR);
  const auto end = Clock::now() + kLinger;
  while (!request_read() && Clock::now() < end && wait_for(socket_, POLLIN, until(end)))
    if (::recv(socket_, buffer_.data(), buffer_.size(), 0) <= 0) break;
  ::close(socket_);
}

void Connection::get_remote_ip_and_port(std::string& ip, int& port) const {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getpeername(socket_, reinterpret_cast<sockaddr*>(&address), &size) == 0) ip_and_port(address, ip, port);
}

void Connection::get_local_ip_and_port(std::string& ip, int& port) const {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size) == 0) ip_and_port(address, ip, port);
}

}  // namespace turboquant
