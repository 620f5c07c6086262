// Reading and writing whole files safely: a file under its final name is always complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace turboquant {

/// A file being written under a temporary name beside its final one. Every failure (no space, no permission, a size
/// limit, an I/O error) is an Error naming the file and the reason. Destroyed before commit(), it removes the temporary
/// file and leaves what the final name held.
class OutputFile {
 public:
  enum class Kind {
    fresh,
    resumable,  // the temporary file is path + ".partial"; it outlives this object and the process, and its bytes, or
                // those of a committed file, are there again when the same path is opened so again
  };

  explicit OutputFile(std::filesystem::path path, Kind kind = Kind::fresh);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  /// Takes the disk space of a file of this size (zeros) now, so that a full disk shows before the work starts.
  void reserve(uint64_t bytes);
  /// Writes at a position. Safe to call from several threads.
  void write_at(uint64_t offset, const void* data, size_t bytes);
  /// Reads back what was written. Safe to call from several threads.
  void read_at(uint64_t offset, void* data, size_t bytes) const;
  /// What was written so far, to the disk.
  void sync();
  /// To the disk (fsync), then to the final name (replacing what it held).
  void commit();
  const std::filesystem::path& path() const { return path_; }

 private:
  [[noreturn]] void fail(int error) const;

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  Kind kind_;
  int fd_ = -1;
};

/// Writes a text file: temporary name beside, fsync, rename.
void write_text(const std::filesystem::path& path, std::string_view text);
/// fsyncs a folder, so that the names in it survive a crash.
void sync_folder(const std::filesystem::path& folder);

/// Largest text that read_text takes: an endless device must not fill the memory.
inline constexpr uint64_t kMaxTextBytes = uint64_t{1} << 31;
/// Largest JSON file or header (safetensors' own limit for headers).
inline constexpr uint64_t kMaxJsonBytes = 100'000'000;
/// Deepest nesting of JSON; code that walks JSON recursively must not run out of stack.
inline constexpr int kMaxJsonDepth = 100;

/// Whole text of a file; Error naming it if it cannot be read or is larger than `max_bytes`. Pipes work too.
std::string read_text(const std::filesystem::path& path, uint64_t max_bytes = kMaxTextBytes);
/// Parses JSON. An Error names `where` (a file) and the position; so does nesting deeper than kMaxJsonDepth.
nlohmann::json parse_json(std::string_view text, const std::string& where);
/// parse_json of a file of at most kMaxJsonBytes.
nlohmann::json read_json(const std::filesystem::path& path);

/// Text of strangers for an error line: in quotes, cut to 200 bytes, control characters and bytes that are not UTF-8
/// replaced, so that a line stays one line and a terminal is not sent control codes.
std::string quote(std::string_view text);
/// The message of a nlohmann::json exception without its "[json.exception...]" prefix, made printable likewise.
std::string json_problem(const std::exception& error);

}  // namespace turboquant
