#include "generate/prefix_files.h"

#include <fmt/format.h>

#include <algorithm>

#include "generate/cache_file.h"
#include "hub/checksum.h"

namespace turboquant {
namespace {

constexpr const char* kEnding = ".kvcache";

std::string short_sum(std::string_view bytes) {
  Checksum sum;
  sum.update(bytes);
  return sum.hex().substr(0, 16);
}

/// All that keys and values depend on, beside the tokens.
std::string settings_of(LanguageModel::State& model) {
  const KvCacheOptions& kv = model.kv;
  return fmt::format("{} {} {} {} {} {} {} {} {}", model.fingerprint(), kv.dtype, kv.bits, kv.format, kv.group_size,
                     kv.keep_layers, kv.start, model.options.exact, model.options.qjl);
}

}  // namespace

PrefixFiles::PrefixFiles(std::filesystem::path folder, std::shared_ptr<LanguageModel::State> model, Message say)
    : folder_(std::move(folder)),
      model_(std::move(model)),
      say_(std::move(say)),
      beginning_(short_sum(settings_of(*model_)) + "-") {}

/// Does it, and says what went wrong.
template <typename Work>
void PrefixFiles::carefully(const Work& work) {
  try {
    work();
  } catch (const std::exception& error) {
    if (say_) say_(std::string("prompt cache: ") + error.what());
  }
}

std::string PrefixFiles::name_of(const std::vector<int32_t>& tokens) const {
  return beginning_ + short_sum({reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(int32_t)}) +
         kEnding;
}

std::vector<std::filesystem::path> PrefixFiles::files() const {
  std::vector<std::filesystem::path> files;
  if (!std::filesystem::exists(folder_)) return files;
  for (const auto& entry : std::filesystem::directory_iterator(folder_))
    if (const std::string name = entry.path().filename().string();
        name.starts_with(beginning_) && name.ends_with(kEnding))
      files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

void PrefixFiles::load(PrefixCache& prefixes) {
  std::vector<std::filesystem::path> found;
  carefully([&] { found = files(); });
  for (const std::filesystem::path& file : found)
    carefully([&] {
      KvCache::State state(model_, model_->kv);
      load_cache(file, state);
      if (name_of(state.tokens) != file.filename().string())
        throw Error(file.string() + ": damaged: the name is not that of its tokens; remove the file");
      prefixes.insert(state.tokens, std::move(state.cache));
      good_.insert(file.filename().string());
    });
}

void PrefixFiles::save(const PrefixCache& prefixes, uint64_t most) {
  std::vector<PrefixCache::Entry> entries = prefixes.entries();
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.hits > b.hits; });
  uint64_t bytes = 0;
  std::erase_if(entries, [&](const PrefixCache::Entry& entry) {
    const uint64_t size = entry.cache->bytes();
    if (size > most - bytes) return true;
    bytes += size;
    return false;
  });
  carefully([&] {
    std::filesystem::create_directories(folder_);
    std::set<std::string> kept;
    for (const PrefixCache::Entry& entry : entries) kept.insert(name_of(entry.tokens));
    for (const auto& file : files())  // first, for the room
      if (!kept.contains(file.filename().string())) std::filesystem::remove(file);
    for (const PrefixCache::Entry& entry : entries) {
      if (good_.contains(name_of(entry.tokens))) continue;
      KvCache::State state(model_, model_->kv);
      state.cache = entry.cache->fork();
      state.tokens = entry.tokens;
      save_cache(folder_ / name_of(entry.tokens), state);
    }
  });
}

}  // namespace turboquant
