// The tensors of a model known from its config.json alone: names and shapes, without weights.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/model.h"

namespace turboquant {

struct ModelShapes {
  std::unique_ptr<Checkpoint> checkpoint;  // read() is an Error: there are no weights
  std::vector<LayerMemory> memory;         // of each layer's cache
};

/// All tensors that the model of this config.json loads. The model's own loading code names them, so shapes have no
/// second home. Types are those of config.json ("dtype" or "torch_dtype"; BF16 without). A description of compressed
/// weights in config.json is left out, as the tensors are those of the plain model; but size_on_disk() counts the
/// experts of a model released in MXFP4 at 4.25 bits a weight. `name` stands for the path in messages.
/// Error: an unknown architecture, sizes that no model has.
ModelShapes shapes_of_config(const std::filesystem::path& name, const nlohmann::json& config);

/// The config.json of a well-known model, by a short name such as "gpt-oss-20b"; null for any other name.
const nlohmann::json* known_config(std::string_view name);
/// "llama-3.2-1b, ...": the names that known_config() has.
std::string known_config_names();

}  // namespace turboquant
