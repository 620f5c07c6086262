#include "hub/hub.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <system_error>

#include "hub/cache.h"
#include "hub/download.h"
#include "hub/repository.h"
#include "io/files.h"
#include "io/mapped_file.h"

namespace turboquant {
namespace fs = std::filesystem;
namespace {

constexpr const char* kConfig = "config.json";

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

std::vector<std::string> shards_of(const fs::path& index) {
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : read_weight_map(index)) shards.insert(shard);
  return {shards.begin(), shards.end()};
}

class HubModel {
 public:
  HubModel(HubName name, const std::string& revision, const Say& say)
      : settings_(hub_settings()),
        name_(std::move(name)),
        repository_(settings_, name_.repository, revision),
        cache_(settings_.cache, name_.repository),
        say_(say) {}

  fs::path bring() {
    const auto commit = find_commit();
    if (!listing_) return path_of(commit);
    cache_.create();
    if (name_.file.empty()) {
      require_model();
      std::vector<std::string> small = {kConfig};
      for (const char* file : kModelFiles)
        if (listing_->holds(file)) small.emplace_back(file);
      if (!listing_->holds(kSafetensorsFile)) small.emplace_back(kSafetensorsIndex);
      fetch(small);
      fetch(weight_files());
    } else {
      if (!listing_->holds(name_.file))
        throw Error(name_.repository + ": holds no " + quote(name_.file) + ggufs("; it holds "));
      fetch({name_.file});
    }
    cache_.write_ref(repository_.revision(), commit);
    return path_of(commit);
  }

  HubHeaders headers() {
    HubHeaders result;
    result.commit = find_commit();
    if (listing_) require_model();
    result.config = text_of(kConfig, kMaxJsonBytes);
    uint64_t left = kMaxJsonBytes;  // for all headers together
    for (const std::string& file : remote_weight_files()) {
      result.files.push_back(header_of(file, left));
      left -= result.files.back().header.size();
    }
    return result;
  }

 private:
  // The commit to use. The hub's listing stays empty if the cache has all and the hub need not or cannot be asked.
  std::string find_commit() {
    commit_ = cache_.commit_of(repository_.revision());
    const std::string missing = commit_.empty() ? "it holds no such revision" : missing_in_cache();
    if (settings_.offline) {
      if (missing.empty()) return commit_;
      throw Error(fmt::format("{}: HF_HUB_OFFLINE is set, and {} does not hold the whole model: {}", name_.repository,
                              cache_.folder().string(), missing));
    }
    if (missing.empty() && commit_ == repository_.revision()) return commit_;
    try {
      listing_ = repository_.list();
      commit_ = listing_->commit;
    } catch (const NetworkError& error) {
      if (!missing.empty())
        throw Error(fmt::format("{}: no such file or folder here, and {}; check the network and HF_ENDPOINT",
                                name_.file.empty() ? name_.repository : name_.repository + "/" + name_.file,
                                error.what()));
      say(fmt::format("{}; using the copy of {} in the cache", error.what(), name_.repository));
    }
    return commit_;
  }

  // What the cached snapshot lacks, for a message; empty if it is whole.
  std::string missing_in_cache() const {
    const fs::path folder = cache_.snapshot(commit_);
    const auto lacks = [&](const std::string& file) { return !is_there(folder / file); };
    if (!name_.file.empty()) return lacks(name_.file) ? name_.file + " is missing" : "";
    if (lacks(kConfig)) return std::string(kConfig) + " is missing";
    if (!lacks(kSafetensorsFile)) return "";
    if (lacks(kSafetensorsIndex)) return "the weights are missing";
    for (const std::string& shard : shards_of(folder / kSafetensorsIndex))
      if (lacks(shard)) return shard + " is missing";
    return "";
  }

  fs::path path_of(const std::string& commit) const {
    return name_.file.empty() ? cache_.snapshot(commit) : cache_.snapshot(commit) / name_.file;
  }

  void require_model() const {
    const bool safetensors = listing_->holds(kSafetensorsFile) || listing_->holds(kSafetensorsIndex);
    if (!safetensors)
      throw Error(name_.repository + ": holds neither " + kSafetensorsFile + " nor " + kSafetensorsIndex +
                  ggufs("; name one of its GGUF files: "));
    if (!listing_->holds(kConfig)) throw Error(name_.repository + ": not a model: it holds no " + kConfig);
  }

  // The repository's GGUF files, as they are named on the command line; nothing if it has none.
  std::string ggufs(const std::string& before) const {
    constexpr size_t kShown = 5;
    std::string text;
    size_t count = 0;
    for (const std::string& file : listing_->files)
      if (file.ends_with(".gguf") && ++count <= kShown)
        text += (count == 1 ? before : ", ") + name_.repository + "/" + file;
    return count > kShown ? text + fmt::format(" and {} more", count - kShown) : text;
  }

  std::vector<std::string> weight_files() const {
    if (listing_->holds(kSafetensorsFile)) return {kSafetensorsFile};
    return shards_of(cache_.snapshot(commit_) / kSafetensorsIndex);
  }

  // Downloads those that the snapshot lacks.
  void fetch(const std::vector<std::string>& names) {
    std::vector<RemoteFile> files;
    uint64_t bytes = 0, there = 0;
    for (const std::string& name : names) {
      if (is_there(cache_.snapshot(commit_) / name)) continue;
      files.push_back(repository_.describe(commit_, name));
      bytes += files.back().size;
      there += bytes_there(cache_, files.back());
    }
    if (files.empty()) return;
    std::error_code error;
    const fs::space_info space = fs::space(cache_.folder(), error);
    if (!error && bytes - there > space.available)
      throw Error(
          fmt::format("{}: not enough space: {:.1f} MB to download, {:.1f} MB free; HF_HOME names another place",
                      cache_.folder().string(), static_cast<double>(bytes - there) * 1e-6,
                      static_cast<double>(space.available) * 1e-6));
    say(fmt::format("Downloading {} file{} of {} ({:.1f} MB{})", files.size(), files.size() == 1 ? "" : "s",
                    name_.repository, static_cast<double>(bytes) * 1e-6,
                    there > 0 ? fmt::format(", {:.1f} MB are there", static_cast<double>(there) * 1e-6) : ""));
    Progress progress(name_.repository, static_cast<int64_t>(bytes), Progress::Unit::bytes);
    progress.skip(static_cast<int64_t>(there));
    for (const RemoteFile& file : files) download(repository_, cache_, commit_, file, progress);
  }

  // Bytes `begin` to `end` of a file (fewer where it ends), from the cache where it has it; and the size of the file.
  std::string part_of(const std::string& file, uint64_t begin, uint64_t end, uint64_t& size) const {
    if (const fs::path local = cache_.snapshot(commit_) / file; is_there(local)) {
      const MappedFile mapped(local);
      size = mapped.size();
      const auto* data = reinterpret_cast<const char*>(mapped.data());
      begin = std::min(begin, size);
      return {data + begin, static_cast<size_t>(std::min(end, size) - begin)};
    }
    HttpAnswer answer = repository_.client().get(repository_.url(commit_, file), begin, end);
    repository_.check(answer, file);
    const std::string& range = answer.header("content-range");
    const bool partial = answer.status() == 206;
    if (partial && !range.starts_with(fmt::format("bytes {}-", begin)))
      throw Error(fmt::format("{}/{}: the answer is not the part that was asked for", name_.repository, file));
    // "bytes 0-99/1234" tells the size; a server without ranges sends all of it, of which the rest is not read.
    const auto total = partial ? parse_number(range.substr(range.find('/') + 1)) : answer.number("content-length");
    if (!total) throw Error(fmt::format("{}/{}: the answer does not tell the file's size", name_.repository, file));
    size = *total;
    const uint64_t skipped = partial ? 0 : begin;
    std::string text, piece;
    uint64_t passed = 0;
    while (text.size() < end - begin && answer.read(piece)) {
      const size_t cut = static_cast<size_t>(std::min<uint64_t>(skipped - std::min(skipped, passed), piece.size()));
      passed += piece.size();
      text.append(piece, cut);
    }
    text.resize(std::min<size_t>(text.size(), end - begin));
    return text;
  }

  std::string text_of(const std::string& file, uint64_t max_bytes) const {
    if (const fs::path local = cache_.snapshot(commit_) / file; is_there(local)) return read_text(local, max_bytes);
    HttpAnswer answer = repository_.client().get(repository_.url(commit_, file));
    repository_.check(answer, file);
    return answer.text(max_bytes);
  }

  std::vector<std::string> remote_weight_files() const {
    const fs::path folder = cache_.snapshot(commit_);
    if (listing_ ? listing_->holds(kSafetensorsFile) : is_there(folder / kSafetensorsFile)) return {kSafetensorsFile};
    std::set<std::string> shards;
    const std::string where = name_.repository + "/" + kSafetensorsIndex;
    for (const auto& [tensor, shard] : weight_map(parse_json(text_of(kSafetensorsIndex, kMaxJsonBytes), where), where))
      shards.insert(shard);
    return {shards.begin(), shards.end()};
  }

  HubHeaders::File header_of(const std::string& name, uint64_t max_bytes) const {
    constexpr uint64_t kFirst = 128 << 10;  // holds most headers whole
    HubHeaders::File file{name, 0, ""};
    const std::string first = part_of(name, 0, kFirst, file.size);
    uint64_t length = 0;
    for (size_t i = 8; i-- > 0 && first.size() >= 8;) length = length << 8 | static_cast<unsigned char>(first[i]);
    const std::string what = name_.repository + "/" + name;
    if (first.size() < 8 || length == 0 || length > file.size - std::min<uint64_t>(file.size, 8))
      throw Error(what + ": not a safetensors file: its header does not fit into it");
    if (length > max_bytes) throw Error(fmt::format("{}: a header of {} bytes is more than is read", what, length));
    file.header = first.substr(8, length);
    if (length + 8 > first.size()) {
      uint64_t size = 0;
      file.header += part_of(name, first.size(), length + 8, size);
    }
    if (file.header.size() != length) throw NetworkError(what + ": the connection ends too early");
    return file;
  }

  void say(const std::string& line) const {
    if (say_) say_(line);
  }

  HubSettings settings_;
  HubName name_;
  Repository repository_;
  RepositoryCache cache_;
  const Say& say_;
  std::string commit_;
  std::optional<Listing> listing_;
};

}  // namespace

fs::path resolve_model(const std::string& name, const std::string& revision, const Say& say) {
  std::error_code error;
  const bool is_path = fs::status(name, error).type() != fs::file_type::not_found;
  std::optional<HubName> hub = is_path ? std::nullopt : parse_hub_name(name);
  if (hub) return HubModel(std::move(*hub), revision, say).bring();
  if (!is_path)
    throw Error(name + ": no such file or folder" + (name.empty() ? "" : ", and not the name of a model (org/name)"));
  if (!revision.empty()) throw UsageError("--revision " + quote(revision) + ": " + name + " is not from the hub");
  return name;
}

std::unique_ptr<Checkpoint> open_model(const std::string& name, const std::string& revision, const Say& say) {
  return open_checkpoint(resolve_model(name, revision, say));
}

HubHeaders hub_headers(const std::string& repository, const std::string& revision, const Say& say) {
  std::optional<HubName> hub = parse_hub_name(repository);
  if (!hub || !hub->file.empty()) throw Error(repository + ": not the name of a repository (org/name)");
  return HubModel(std::move(*hub), revision, say).headers();
}

}  // namespace turboquant
