// Models by name: a path, or a repository of the Hugging Face hub that is downloaded into the shared cache.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "io/checkpoint.h"

namespace turboquant {

using Say = std::function<void(const std::string&)>;

/// Where the model `name` is on this disk. A path that exists is itself. "org/name" is a repository of the hub: the
/// files that a model needs (config, tokenizer, chat template, safetensors) are downloaded at `revision` (branch, tag
/// or commit; empty: main) unless the cache has them, and the result is the snapshot's folder; "org/name/file.gguf" is
/// one file of it. Without a network, or with HF_HUB_OFFLINE=1, what the cache has is used. hub/settings.h lists the
/// environment. Error: neither a path nor a repository, no access, no network, no space, damaged.
std::filesystem::path resolve_model(const std::string& name, const std::string& revision = "", const Say& say = {});

/// open_checkpoint of resolve_model.
std::unique_ptr<Checkpoint> open_model(const std::string& name, const std::string& revision = "", const Say& say = {});

/// What a repository says of itself in a few kilobytes.
struct HubHeaders {
  struct File {
    std::string name;
    uint64_t size = 0;   // of the whole file, in bytes
    std::string header;  // JSON: tensor name to dtype, shape and data_offsets, as in the safetensors file
  };
  std::string commit;
  std::string config;       // text of config.json
  std::vector<File> files;  // all that hold weights, sorted by name
};

/// Reads config.json and the header of every safetensors file of "org/name" without downloading weights (HTTP ranges),
/// or from the cache, where it has the file. Error as in resolve_model; also for a repository without safetensors.
HubHeaders hub_headers(const std::string& repository, const std::string& revision = "", const Say& say = {});

}  // namespace turboquant
