#include "convert/partial_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>

#include "io/files.h"

namespace turboquant {
namespace {

namespace fs = std::filesystem;

constexpr const char* kJournal = "conversion.journal";

}  // namespace

PartialFolder::PartialFolder(const fs::path& final, bool resume)
    : path_(final.parent_path() / ("." + final.filename().string() + ".partial")),
      final_(final),
      journal_(path_ / kJournal),
      resumable_(resume) {
  std::error_code error;
  if (fs::exists(final, error))
    throw Error(final.string() + ": exists already; choose another output folder, or remove it");
  for (fs::path parent = final.parent_path(); !parent.empty() && !fs::exists(parent, error);
       parent = parent.parent_path())
    made_.push_back(parent);
  if (!made_.empty()) fs::create_directories(made_.front(), error);
  is_new_ = !error && fs::create_directory(path_, error);
  if (error) throw Error(path_.string() + ": cannot create the output folder: " + error.message());
  fd_ = ::open(journal_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd_ < 0) {
    const int reason = errno;
    if (is_new_) remove();
    throw Error(journal_.string() + ": cannot be written: " + std::strerror(reason));
  }
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    ::close(fd_);
    throw Error(path_.string() + ": another process is writing this model; wait until it has finished");
  }
}

std::set<std::string> PartialFolder::begin(const std::string& fingerprint) {
  std::set<std::string> written;
  if (!is_new_ && resumable_) written = read_journal(fingerprint);
  begun_ = true;
  // What goes on are the shards; a small file that was being written when the process was killed is written anew.
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_, error)) {
    const bool shard = entry.path().extension() == ".partial" || entry.path().extension() == ".safetensors";
    if (entry.path() != journal_ && (written.empty() || !shard)) fs::remove_all(entry.path(), error);
  }
  if (!written.empty()) return written;
  replaced_ = !is_new_;
  if (::ftruncate(fd_, 0) != 0) throw Error(journal_.string() + ": cannot be written: " + std::strerror(errno));
  append(fingerprint + "\n");
  return written;
}

PartialFolder::~PartialFolder() {
  if (fd_ >= 0) ::close(fd_);
  if (!path_.empty() && (begun_ ? !resumable_ : is_new_)) remove();
}

void PartialFolder::remove() const {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
  for (const fs::path& parent : made_) fs::remove(parent, ignored);
}

// Lines behind the first are names of tensors, in quotes as JSON has them. The last may be cut: it does not count then.
std::set<std::string> PartialFolder::read_journal(const std::string& fingerprint) const {
  const std::string text = read_text(journal_);
  std::set<std::string> names;
  size_t begin = text.find('\n');
  if (begin == text.npos) return names;
  if (text.substr(0, begin) != fingerprint) {
    throw Error(path_.string() +
                ": was begun from another source or with other settings; convert without --resume to begin anew");
  }
  for (size_t end = 0; (end = text.find('\n', ++begin)) != text.npos; begin = end)
    names.insert(parse_json(std::string_view(text).substr(begin, end - begin), journal_.string()).get<std::string>());
  return names;
}

void PartialFolder::append(const std::string& text) const {
  for (size_t done = 0; done < text.size();) {
    const ssize_t written = ::write(fd_, text.data() + done, text.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) throw Error(journal_.string() + ": cannot be written: " + std::strerror(errno));
    done += static_cast<size_t>(written);
  }
}

void PartialFolder::append_pending() {
  std::string lines;
  for (const std::string& tensor : pending_) lines += nlohmann::json(tensor).dump() + "\n";
  append(lines);
  pending_.clear();
}

void PartialFolder::keep() {
  std::error_code error;
  fs::remove(journal_, error);
  sync_folder(path_);
  fs::rename(path_, final_, error);
  if (error) throw Error(final_.string() + ": cannot rename the finished folder to this name: " + error.message());
  path_.clear();
  sync_folder(final_.parent_path().empty() ? fs::path(".") : final_.parent_path());
}

std::string files_fingerprint(const fs::path& model) {
  std::map<std::string, std::string> files;
  const auto add = [&](const fs::path& path) {
    std::error_code error;
    const auto size = fs::file_size(path, error);
    if (error) return;
    files[path.filename().string()] =
        fmt::format("{} {}", size, fs::last_write_time(path, error).time_since_epoch().count());
  };
  std::error_code error;
  if (fs::is_directory(model, error)) {
    for (const fs::directory_entry& entry : fs::directory_iterator(model, error)) add(entry.path());
  } else {
    add(model);
  }
  return nlohmann::json(files).dump();
}

}  // namespace turboquant
