// A model on disk, whatever wrote it: named tensors, config.json, tokenizer files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "io/mapped_file.h"

namespace turboquant {

struct TensorInfo {
  std::string name;  // as Hugging Face names it
  DType dtype = DType::f32;
  Shape shape;
  size_t bytes() const { return static_cast<size_t>(shape.elements()) * item_size(dtype); }
};

/// "'model.norm.weight' BF16 [576]", for messages.
std::string describe(const TensorInfo& info);
/// Bytes of a tensor whose shape comes from strangers; nothing if a dimension is negative or the product passes 63
/// bits.
std::optional<uint64_t> checked_bytes(DType dtype, const Shape& shape);
/// The tensor of that name in a list sorted by name, or null.
const TensorInfo* find_tensor(const std::vector<TensorInfo>& tensors, std::string_view name);

/// Files that belong to a model beside config.json and its weights, where it has them.
inline constexpr const char* kModelFiles[] = {"tokenizer.json",
                                              "tokenizer_config.json",
                                              "special_tokens_map.json",
                                              "added_tokens.json",
                                              "vocab.json",
                                              "merges.txt",
                                              "chat_template.jinja",
                                              "chat_template.json",
                                              "generation_config.json",
                                              "preprocessor_config.json"};

class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  /// The folder or file it was opened from.
  const std::filesystem::path& path() const { return path_; }
  /// config.json (of a GGUF file: built from its metadata).
  const nlohmann::json& config() const { return config_; }
  /// Every tensor, sorted by name. What read() returns has this type and shape.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  /// Null if there is none of that name.
  virtual const TensorInfo* find(std::string_view name) const { return find_tensor(tensors_, name); }
  /// The same for a tensor that a model needs in that shape (its reader checks it): a checkpoint that only learns what
  /// models ask for, models/shapes.h, takes it from here.
  virtual const TensorInfo* expect(std::string_view name, const Shape& /*shape*/) const { return find(name); }
  /// A view of the mapped file where the bytes are stored as they are; else decoded into new memory. A missing tensor
  /// is an Error that names it and the file. Safe to call from several threads.
  virtual Tensor read(std::string_view name) const = 0;
  /// The text of a file that belongs to the model: tokenizer.json, tokenizer_config.json, chat_template.jinja,
  /// chat_template.json, generation_config.json, special_tokens_map.json (of a GGUF file: built from its metadata).
  /// Nothing if the model has none; an Error if it is there and cannot be read.
  virtual std::optional<std::string> file(std::string_view name) const = 0;
  /// Bytes of all files that hold tensors.
  virtual uint64_t size_on_disk() const = 0;
  /// The files that read() gives views of.
  virtual std::vector<std::shared_ptr<const MappedFile>> mapped_files() const { return {}; }
  /// One line on tensors that are in the files and left out here; empty if there are none.
  const std::string& note() const { return note_; }

 protected:
  std::filesystem::path path_;
  nlohmann::json config_;
  std::vector<TensorInfo> tensors_;
  std::string note_;
};

/// Opens a Hugging Face folder (config.json, model.safetensors or model.safetensors.index.json), or a .gguf file.
/// Experts come one by one, however the folder stores them (io/experts.h).
/// Throws Error: not found, not a model, damaged.
std::unique_ptr<Checkpoint> open_checkpoint(const std::filesystem::path& path);

/// The language model of a checkpoint that may hold more: names that begin with model.language_model. or
/// language_model. become those of a text model, and the tensors of image encoders (visual, vision_tower) and of
/// multi-token prediction (mtp) are left out, which note() says. A checkpoint without such names is returned as it is.
std::unique_ptr<Checkpoint> language_model_of(std::unique_ptr<Checkpoint> checkpoint);
/// The name that it gives a tensor or module of the language model.
std::string language_model_name(const std::string& name);

/// Where a folder has its tensors: the one file, or the shards that the index names. The one file goes first.
inline constexpr const char* kSafetensorsFile = "model.safetensors";
inline constexpr const char* kSafetensorsIndex = "model.safetensors.index.json";
/// Tensor name to shard, of a parsed index; Error naming `where` if it is damaged or names what is no file beside it.
std::map<std::string, std::string> weight_map(const nlohmann::json& index, const std::string& where);
std::map<std::string, std::string> read_weight_map(const std::filesystem::path& index);

/// Reads the files of a checkpoint into memory, under a progress bar; Ctrl-C unwinds. Where there is room they are
/// copied to large pages, which are read faster than the system's pages of a file, unless `copy` is false. `lock`: they
/// stay there as long as the checkpoint lives. Error: the process may not lock so much memory.
void load_into_memory(const Checkpoint& checkpoint, bool lock, bool copy = true);

/// A checkpoint known from headers alone, such as those of a model that was not downloaded: names, types and shapes of
/// the tensors as they are in its files, and config.json. Shown as open_checkpoint shows a folder; read() is an Error.
std::unique_ptr<Checkpoint> checkpoint_of_headers(const std::filesystem::path& name, const nlohmann::json& config,
                                                  std::vector<TensorInfo> tensors);

/// The two behind open_checkpoint.
std::unique_ptr<Checkpoint> open_safetensors_checkpoint(const std::filesystem::path& folder);
std::unique_ptr<Checkpoint> open_gguf_checkpoint(const std::filesystem::path& file);

}  // namespace turboquant
