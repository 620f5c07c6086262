// Safetensors files (https://github.com/huggingface/safetensors): memory-mapped reader, writer of sharded checkpoints.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "io/checkpoint.h"

namespace turboquant {

/// One mapped file. The header is data from strangers: its size, every offset, shape and type are checked before use.
class SafetensorsFile {
 public:
  /// Throws Error naming the file (and the tensor) if anything is wrong.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // sorted by name
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(std::string_view name) const { return views_.find(name) != views_.end(); }
  /// A view; the mapping lives as long as the view does.
  Tensor tensor(std::string_view name) const;
  uint64_t size() const { return size_; }

 private:
  std::filesystem::path path_;
  uint64_t size_ = 0;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, Tensor, std::less<>> views_;
};

/// Writes one small file (results, test data): temporary name beside, fsync, rename.
void write_safetensors(const std::filesystem::path& path, const std::map<std::string, Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

/// Writes a checkpoint tensor by tensor with bounded memory: a shard is closed when the next tensor would pass
/// `shard_bytes`. Every tensor starts at a multiple of 64 bytes of the file.
class SafetensorsWriter {
 public:
  static constexpr uint64_t kShardBytes = 5'000'000'000;

  /// `folder` must exist (the caller's temporary folder).
  explicit SafetensorsWriter(std::filesystem::path folder, std::map<std::string, std::string> metadata = {},
                             uint64_t shard_bytes = kShardBytes);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  void add(const std::string& name, const Tensor& tensor);
  /// Closes the last shard and gives the shards their names: model.safetensors if there is one, else
  /// model-00001-of-0000N.safetensors; writes model.safetensors.index.json (metadata.total_size, metadata.total_parameters,
  /// weight_map sorted).
  void finish(uint64_t total_parameters);
  /// Bytes of tensors so far.
  uint64_t bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Writes a text file: temporary name beside, fsync, rename.
void write_text(const std::filesystem::path& path, std::string_view text);
/// fsyncs a folder, so that the names in it survive a crash.
void sync_folder(const std::filesystem::path& folder);
/// Whole text of a file; Error naming it if it cannot be read.
std::string read_text(const std::filesystem::path& path);

}  // namespace turboquant
