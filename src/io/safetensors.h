// Safetensors files (https://github.com/huggingface/safetensors): memory-mapped reader, writer of sharded checkpoints.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "io/checkpoint.h"
#include "io/files.h"
#include "io/mapped_file.h"

namespace turboquant {

/// One mapped file. The header is data from strangers: its size, every offset, shape and type are checked before use,
/// as strictly as the reference implementation does (no overlaps, no holes, nothing behind the last tensor), and
/// duplicate names are refused too. Names beginning with "__padding" are fillers of SafetensorsWriter and left out.
class SafetensorsFile {
 public:
  /// Throws Error naming the file (and the tensor) if anything is wrong.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_->path(); }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // sorted by name
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(std::string_view name) const { return find(name) != nullptr; }
  /// Null if there is none of that name.
  const TensorInfo* find(std::string_view name) const { return find_tensor(tensors_, name); }
  /// A view; the mapping lives as long as the view does. (A copy where the bytes lie unaligned for their type.) A
  /// missing tensor is an Error that names it and the file. Safe to call from several threads.
  Tensor tensor(std::string_view name) const;
  /// Bytes of the file.
  uint64_t size() const { return file_->size(); }
  const std::shared_ptr<const MappedFile>& mapping() const { return file_; }

 private:
  std::shared_ptr<const MappedFile> file_;
  std::vector<TensorInfo> tensors_;
  std::vector<uint64_t> offsets_;  // of tensors_[i], from the start of the file
  std::map<std::string, std::string> metadata_;
};

/// Tensors of a header's JSON text, in any order, fillers left out; checked like a file's, but for their places.
std::vector<TensorInfo> safetensors_header_tensors(std::string_view header, const std::string& where);

/// Names that begin so belong to the writer: U8 tensors of zeros that fill the gap to the next multiple of 64 bytes,
/// which the format does not allow to leave open.
inline constexpr std::string_view kPaddingPrefix = "__padding";

/// Writes one small file (results, test data): temporary name beside, fsync, rename. The layout is SafetensorsWriter's.
void write_safetensors(const std::filesystem::path& path, const std::map<std::string, Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

/// The same for tensors that are made one by one, in the order of `infos`.
void write_safetensors(const std::filesystem::path& path, const std::vector<TensorInfo>& infos,
                       const std::map<std::string, std::string>& metadata, const std::function<Tensor(size_t)>& tensor);

/// Writes a checkpoint tensor by tensor with bounded memory. All tensors are announced first: headers are written and
/// the disk space is taken before the work starts, and tensors may then come in any order and from several threads.
/// A shard is full when the next tensor of the plan would pass `shard_bytes`. Every tensor starts at a multiple of 64
/// bytes of its file: within a shard, those whose size is such a multiple come first, the others last with fillers.
/// Every failed write is an Error naming the file and the reason.
class SafetensorsWriter {
 public:
  static constexpr uint64_t kShardBytes = 5'000'000'000;

  /// `folder` must exist (the caller's temporary folder). Throws Error: a name twice in the plan, no space, no
  /// permission.
  SafetensorsWriter(std::filesystem::path folder, const std::vector<TensorInfo>& plan,
                    const std::map<std::string, std::string>& metadata = {}, uint64_t shard_bytes = kShardBytes);
  /// The same where it may be interrupted and go on: everything that it wrote stays in the folder, and `written` names
  /// the tensors that an earlier writer of the same plan has added and synced there.
  SafetensorsWriter(std::filesystem::path folder, const std::vector<TensorInfo>& plan,
                    const std::map<std::string, std::string>& metadata, const std::set<std::string>& written,
                    uint64_t shard_bytes = kShardBytes);
  /// Removes everything that it wrote unless finish() succeeded, or it may go on.
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  /// Writes a planned tensor. Throws Error if it is not in the plan, was added before, or its type or shape is not the
  /// planned one. Safe to call from several threads.
  void add(std::string_view name, const Tensor& tensor);
  /// A tensor that was added, by an earlier writer or this one, read back. Error if it was not.
  Tensor added(std::string_view name) const;
  /// What was added so far, to the disk.
  void sync();
  /// Error if a planned tensor is missing. Gives the shards their names: model.safetensors if there is one, else
  /// model-00001-of-0000N.safetensors; always writes model.safetensors.index.json (metadata.total_size,
  /// metadata.total_parameters, weight_map sorted; fillers are in neither), and syncs the folder.
  void finish(uint64_t total_parameters);
  /// Bytes of all shards of such a plan, headers and fillers included.
  static uint64_t bytes_on_disk(const std::vector<TensorInfo>& plan, const std::map<std::string, std::string>& metadata,
                                uint64_t shard_bytes = kShardBytes);
  /// Bytes of the tensors added so far, by an earlier writer too.
  uint64_t bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace turboquant
