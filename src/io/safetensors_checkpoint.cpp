// A model folder as Hugging Face lays it out: config.json, model.safetensors or shards listed in
// model.safetensors.index.json, and files for tokenizer, chat template and generation.
#include <algorithm>
#include <map>
#include <system_error>

#include "io/checkpoint.h"
#include "io/files.h"
#include "io/safetensors.h"
#include "turboquant/error.h"

namespace turboquant {
namespace {

constexpr const char* kConfig = "config.json";

// Names from an index must not lead out of the folder.
bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find_first_of(std::string_view("/\\\0", 3)) == name.npos;
}

// True also for what may not be looked at: reading it then says why.
bool is_there(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::status(path, ignored).type() != std::filesystem::file_type::not_found;
}

class SafetensorsCheckpoint : public Checkpoint {
 public:
  explicit SafetensorsCheckpoint(const std::filesystem::path& folder) {
    path_ = folder;
    read_config();
    // The order in which Hugging Face's transformers looks: an index beside a single file only repeats its names.
    if (is_there(folder / kSafetensorsFile)) {
      shards_.emplace_back(folder / kSafetensorsFile);
      tensors_ = shards_.front().tensors();
      shard_of_.assign(tensors_.size(), 0);
    } else if (is_there(folder / kSafetensorsIndex)) {
      open_shards(read_weight_map(folder / kSafetensorsIndex));
    } else {
      throw Error(folder.string() + ": holds neither " + kSafetensorsFile + " nor " + kSafetensorsIndex +
                  other_weights());
    }
  }

  Tensor read(std::string_view name) const override {
    const TensorInfo* info = find(name);
    if (info == nullptr) throw Error(path_.string() + ": no tensor " + quote(name));
    return shards_[shard_of_[static_cast<size_t>(info - tensors_.data())]].tensor(name);
  }

  std::optional<std::string> file(std::string_view name) const override {
    if (!is_plain_file_name(name) || !is_there(path_ / name)) return std::nullopt;
    return read_text(path_ / name);
  }

  uint64_t size_on_disk() const override {
    uint64_t bytes = 0;
    for (const SafetensorsFile& shard : shards_) bytes += shard.size();
    return bytes;
  }

  std::vector<std::shared_ptr<const MappedFile>> mapped_files() const override {
    std::vector<std::shared_ptr<const MappedFile>> files;
    for (const SafetensorsFile& shard : shards_) files.push_back(shard.mapping());
    return files;
  }

 private:
  void read_config() {
    const auto path = path_ / kConfig;
    if (!is_there(path)) {
      std::string hint = ": not a model folder: it has no config.json";
      if (const auto gguf = first_file(".gguf"); !gguf.empty()) hint += "; for its GGUF file give " + gguf.string();
      throw Error(path_.string() + hint);
    }
    config_ = read_json(path);
    if (!config_.is_object()) throw Error(path.string() + ": expected a JSON object, got " + config_.type_name());
  }

  // The weights in a form that is not read here, for the message.
  std::string other_weights() const {
    for (const char* extension : {".bin", ".pth", ".pt", ".gguf", ".safetensors"})
      if (const auto file = first_file(extension); !file.empty())
        return "; " + file.filename().string() + " is not read from a folder";
    return "; the weights were not downloaded";
  }

  std::filesystem::path first_file(std::string_view extension) const {
    std::filesystem::path first;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(path_, error))
      if (entry.path().extension() == extension && (first.empty() || entry.path() < first)) first = entry.path();
    return first;
  }

  void open_shards(const std::map<std::string, std::string>& weight_map) {
    std::map<std::string, size_t> tensors_in;
    for (const auto& [name, shard] : weight_map) ++tensors_in[shard];
    std::map<std::string, size_t> shard_index;
    for (const auto& [shard, count] : tensors_in) {
      const auto path = path_ / shard;
      if (!is_there(path))
        throw Error(path.string() + ": missing; " + kSafetensorsIndex + " places " + std::to_string(count) +
                    " tensors there; download it again");
      shard_index.emplace(shard, shards_.size());
      shards_.emplace_back(path);
    }
    for (const auto& [name, shard] : weight_map) {
      const size_t index = shard_index.at(shard);
      const TensorInfo* info = shards_[index].find(name);
      if (info == nullptr)
        throw Error((path_ / shard).string() + ": tensor " + quote(name) + " is missing, but " + kSafetensorsIndex +
                    " places it there; the files are from different versions of the model");
      tensors_.push_back(*info);
      shard_of_.push_back(index);
    }
  }

  std::vector<SafetensorsFile> shards_;
  std::vector<size_t> shard_of_;  // of tensors_[i]
};

}  // namespace

std::map<std::string, std::string> weight_map(const nlohmann::json& index, const std::string& where) {
  const auto weight_map = index.is_object() ? index.find("weight_map") : index.end();
  if (weight_map == index.end() || !weight_map->is_object())
    throw Error(where + ": has no weight_map object; the file is damaged");
  std::map<std::string, std::string> result;
  for (const auto& [name, shard] : weight_map->items()) {
    if (name.starts_with(kPaddingPrefix)) continue;
    if (!shard.is_string())
      throw Error(where + ": weight_map of tensor " + quote(name) + ": expected a file name, got " + shard.type_name());
    const auto& file = shard.get_ref<const std::string&>();
    if (!is_plain_file_name(file))
      throw Error(where + ": weight_map of tensor " + quote(name) + ": " + quote(file) +
                  " is not the name of a file in this folder");
    result.emplace(name, file);
  }
  return result;
}

std::map<std::string, std::string> read_weight_map(const std::filesystem::path& path) {
  return weight_map(read_json(path), path.string());
}

std::unique_ptr<Checkpoint> open_safetensors_checkpoint(const std::filesystem::path& folder) {
  return std::make_unique<SafetensorsCheckpoint>(folder);
}

}  // namespace turboquant
