// The file of a KV cache: safetensors, the tensors of layer N named "layers.N.", with "tokens" I32 [length] beside
// them. Its metadata says what made it: the model and the settings that keys and values depend on.
#pragma once

#include <filesystem>
#include <string>

#include "generate/state.h"

namespace turboquant {

/// Identifies the weights of a model without reading them all: a SHA-256 of config.json and, of each file, its size,
/// its first MiB and 256 pieces of it.
std::string fingerprint(const Checkpoint& checkpoint);

/// Writes layer by layer; temporary name beside, fsync, rename.
void save_cache(const std::filesystem::path& path, KvCache::State& state);
/// Fills an empty cache. Error: the file is damaged, or of another model or other settings; one that is not compressed
/// may become a cache that is to be compressed later.
void load_cache(const std::filesystem::path& path, KvCache::State& state);

}  // namespace turboquant
