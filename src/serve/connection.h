// A client's connection as the HTTP library reads and writes it, with what the library does not limit: how long a
// request may take to arrive, how long its headers and its body are; and whether the client is still there.
#pragma once

#include <httplib.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <string>

namespace turboquant {

struct ConnectionLimits {
  size_t header_bytes = size_t{32} << 10;  // request line and headers
  size_t body_bytes = size_t{16} << 20;
  std::chrono::milliseconds request{30'000};  // from a request's first byte to its last
  std::chrono::milliseconds idle{10'000};     // between two requests of a connection
  std::chrono::milliseconds write{30'000};    // without the client taking anything
};

class Connection final : public httplib::Stream {
 public:
  /// What ended the reading of a request.
  enum class Trouble { none, gone, slow, long_headers, long_body, refused };

  Connection(int socket, const ConnectionLimits& limits) : socket_(socket), limits_(limits) {}

  /// Until a request begins: false if none does, or `stopping` becomes true.
  bool wait_for_request(const std::atomic<bool>& stopping);
  /// The request's headers are read.
  void begin_body(const httplib::Request& request);
  /// The request is answered without its body, so that no other can follow one that has a body.
  void refuse_body();
  /// No other request follows, whatever is left of this one.
  void give_up() { fail(Trouble::refused); }
  /// Whether all of the request was read, so that another may follow.
  bool request_read() const { return trouble_ == Trouble::none && body_left_ == 0; }
  Trouble trouble() const { return trouble_; }
  /// The client has closed the connection, or at least its side of it.
  bool closed() const;
  /// Ends it, so that the client still gets what was written: a plain close drops that if something was not read.
  void finish();

  bool is_readable() const override { return begin_ < end_ || !closed(); }
  bool is_writable() const override { return !closed(); }
  using httplib::Stream::write;
  ssize_t read(char* data, size_t size) override;
  ssize_t write(const char* data, size_t size) override;
  void get_remote_ip_and_port(std::string& ip, int& port) const override;
  void get_local_ip_and_port(std::string& ip, int& port) const override;
  socket_t socket() const override { return socket_; }

 private:
  ssize_t fail(Trouble trouble);

  int socket_;
  const ConnectionLimits& limits_;
  std::array<char, 16384> buffer_{};
  size_t begin_ = 0, end_ = 0;  // of what is in the buffer and was not asked for yet
  std::chrono::steady_clock::time_point deadline_{};
  size_t budget_ = 0;  // bytes that this part of the request may still have
  bool in_body_ = false;
  size_t body_left_ = 0;  // of Content-Length
  bool chunked_ = false;
  Trouble trouble_ = Trouble::none;
};

}  // namespace turboquant
