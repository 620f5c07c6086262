#include "generate/cache_file.h"

#include <algorithm>

#include "hub/checksum.h"
#include "io/safetensors.h"

namespace turboquant {
namespace {

constexpr const char* kFormat = "turboquant-kv-cache";
constexpr const char* kVersion = "1";

// What keys and values depend on, as the command's options name it.
std::map<std::string, std::string> settings_of(const KvCache::State& state) {
  const CacheOptions& options = state.cache.options;
  const LanguageModel::State& model = *state.model;
  std::map<std::string, std::string> settings = {{"--cache-dtype", options.dtype == DType::f32 ? "float32" : "float16"},
                                                 {"--kv-bits", to_string(options.kv_bits)},
                                                 {"--exact", model.options.exact ? "yes" : "no"},
                                                 {"--fast", model.options.qjl ? "no" : "yes"}};
  if (!options.kv_bits.compressed()) return settings;
  settings["--kv-keep-layers"] = std::to_string(options.keep_layers);
  settings["--kv-format"] = options.format == KvFormat::original ? "original" : "tcq";
  if (options.format == KvFormat::original) settings["--kv-group-size"] = std::to_string(options.group_size);
  return settings;
}

std::string layer_prefix(size_t layer) { return "layers." + std::to_string(layer) + "."; }

}  // namespace

std::string fingerprint(const Checkpoint& checkpoint) {
  constexpr uint64_t kStart = 1 << 20, kPieces = 256, kPieceBytes = 4096;
  Checksum sum;
  sum.update(checkpoint.config().dump());
  for (const auto& file : checkpoint.mapped_files()) {
    const auto add = [&](uint64_t begin, uint64_t bytes) {
      begin = std::min(begin, file->size());
      sum.update({reinterpret_cast<const char*>(file->data()) + begin,
                  static_cast<size_t>(std::min(bytes, file->size() - begin))});
    };
    sum.update(std::to_string(file->size()));
    add(0, kStart);
    for (uint64_t i = 0; i < kPieces; ++i) add(file->size() / kPieces * i, kPieceBytes);
  }
  return sum.hex();
}

void save_cache(const std::filesystem::path& path, KvCache::State& state) {
  Ops& ops = state.model->model->ops();
  std::map<std::string, std::string> metadata = settings_of(state);
  metadata["format"] = kFormat;
  metadata["version"] = kVersion;
  metadata["model"] = state.model->fingerprint();

  // Once for the header, once for the bytes: only one layer's copy is in memory.
  std::vector<TensorInfo> infos;
  std::vector<std::pair<size_t, std::string>> places;  // layer, and the name within
  for (size_t i = 0; i < state.cache.layers.size(); ++i)
    for (const auto& [name, tensor] : state.cache.layers[i]->save(ops).tensors) {
      infos.push_back({layer_prefix(i) + name, tensor.dtype(), tensor.shape()});
      places.emplace_back(i, name);
    }
  const auto length = static_cast<int64_t>(state.tokens.size());
  infos.push_back({"tokens", DType::i32, {length}});
  size_t held = state.cache.layers.size();
  LayerState layer;
  write_safetensors(path, infos, metadata, [&](size_t i) {
    if (i == places.size()) return Tensor(DType::i32, {length}, state.tokens.data(), nullptr);
    const auto& [number, name] = places[i];
    if (number != held) layer = state.cache.layers[number]->save(ops);
    held = number;
    return layer.tensors.at(name);
  });
}

void load_cache(const std::filesystem::path& path, KvCache::State& state) {
  const std::string where = path.string();
  const SafetensorsFile file(path);
  const auto said = [&](const std::string& key) {
    const auto found = file.metadata().find(key);
    return found == file.metadata().end() ? std::string() : found->second;
  };
  if (said("format") != kFormat)
    throw Error(where + ": not a KV cache; name a new file, or one that --prompt-cache wrote");
  if (said("version") != kVersion)
    throw Error(where + ": a KV cache of format version " + quote(said("version")) + ", this program has " + kVersion +
                "; remove the file");
  if (said("model") != state.model->fingerprint())
    throw Error(where + ": the cache is of another model; name another file, or remove this one");
  // A cache that is to be compressed later may have been saved before or after.
  if (state.options.start != 0 && said("--kv-bits") == to_string(parse_kv_bits(state.options.bits)))
    state.cache = state.model->model->make_cache(cache_options(state.options));
  const std::map<std::string, std::string> settings = settings_of(state);
  for (const auto& [option, value] : settings)
    if (said(option) != value)
      throw Error(where + ": the cache was made with " + option + " " + quote(said(option)) + ", not " + value +
                  "; give the same option, or name another file");

  const TensorInfo* tokens = file.find("tokens");
  if (tokens == nullptr || tokens->dtype != DType::i32 || tokens->shape.rank() != 1)
    throw Error(where + ": damaged: no tensor 'tokens' I32 [length]; remove the file");
  const int64_t length = tokens->shape[0];
  if (length > state.model->model->info().max_context)
    throw Error(where + ": damaged: more tokens than the model's context; remove the file");
  const Tensor ids = file.tensor("tokens");
  for (int64_t i = 0; i < length; ++i)
    if (const int32_t id = ids.data<int32_t>()[i]; id < 0 || id >= state.model->model->info().vocab_size)
      throw Error(where + ": damaged: token " + std::to_string(id) + " is not in the vocabulary; remove the file");
  for (size_t i = 0; i < state.cache.layers.size(); ++i) {
    LayerState layer{length, {}};
    const std::string prefix = layer_prefix(i);
    for (const TensorInfo& info : file.tensors())
      if (info.name.starts_with(prefix)) layer.tensors[info.name.substr(prefix.size())] = file.tensor(info.name);
    try {
      state.cache.layers[i]->restore(state.model->model->ops(), layer);
    } catch (const Error& error) {
      throw Error(where + ": damaged: layer " + std::to_string(i) + ": " + error.what() + "; remove the file");
    }
  }
  state.tokens.assign(ids.data<int32_t>(), ids.data<int32_t>() + length);
  if (state.options.start > 0 && state.to_be_compressed() && length >= state.options.start) state.compress();
}

}  // namespace turboquant
