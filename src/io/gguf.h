// GGUF files, the container of llama.cpp (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): versions 2 and 3,
// little endian.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "io/gguf_dequant.h"
#include "io/mapped_file.h"

namespace turboquant {

struct GgufTensor {
  std::string name;  // as the file names it: "blk.0.attn_q.weight"
  GgufType type = GgufType::f32;
  Shape shape;          // outermost first (the file has it the other way round); rank 1 to 4
  uint64_t offset = 0;  // of its bytes in the file
  uint64_t bytes = 0;
};

/// One mapped file. The header is data from strangers: every count, length, offset, shape and type is checked against
/// the file before it is used, and nothing is allocated that the file is not long enough to hold.
class GgufFile {
 public:
  /// Throws Error naming the file, and the key or tensor, if anything is wrong.
  explicit GgufFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_->path(); }
  uint64_t size() const { return file_->size(); }
  uint32_t version() const { return version_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }  // in the file's order
  const GgufTensor* find(std::string_view name) const;                 // null if there is none
  /// The first byte of a tensor.
  const std::byte* data(const GgufTensor& tensor) const { return file_->data() + tensor.offset; }
  const std::shared_ptr<const MappedFile>& mapping() const { return file_; }
  /// The type that holds most of the bytes: "Q4_1".
  std::string source_type() const;

  /// Metadata. Nothing if there is no such key; an Error that names file and key if its value is of another type
  /// (every integer type counts as an integer, every number as a float).
  bool has(std::string_view key) const { return metadata_.find(key) != metadata_.end(); }
  std::optional<std::string_view> text(std::string_view key) const;
  std::optional<int64_t> integer(std::string_view key) const;  // 0 to 2^63 - 1; a negative one is an Error
  std::optional<double> number(std::string_view key) const;    // finite; a float as its shortest decimal: 1e-05
  std::optional<bool> flag(std::string_view key) const;
  std::optional<std::vector<std::string_view>> texts(std::string_view key) const;
  std::optional<std::vector<int64_t>> integers(std::string_view key) const;
  std::optional<std::vector<float>> numbers(std::string_view key) const;

  /// An Error that begins with the file's name.
  [[noreturn]] void fail(const std::string& what) const;

 private:
  struct Value {
    uint32_t type = 0;  // of the elements, if it is an array
    bool array = false;
    uint64_t count = 1;
    uint64_t offset = 0;
  };
  class Parser;

  const Value* value(std::string_view key, bool array) const;

  std::shared_ptr<const MappedFile> file_;
  uint32_t version_ = 0;
  std::map<std::string, Value, std::less<>> metadata_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
};

}  // namespace turboquant
