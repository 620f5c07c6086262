#include "io/checkpoint.h"

#include <algorithm>
#include <fstream>
#include <system_error>

#include "core/interrupt.h"
#include "core/memory.h"
#include "core/progress.h"
#include "io/experts.h"
#include "io/files.h"
#include "turboquant/error.h"

namespace turboquant {
namespace {

bool starts_with_gguf(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  char magic[4] = {};
  return file.read(magic, sizeof magic) && std::string_view(magic, sizeof magic) == "GGUF";
}

class HeaderCheckpoint final : public Checkpoint {
 public:
  HeaderCheckpoint(const std::filesystem::path& name, const nlohmann::json& config, std::vector<TensorInfo> tensors) {
    path_ = name;
    config_ = config;
    tensors_ = std::move(tensors);
    std::sort(tensors_.begin(), tensors_.end(),
              [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
    for (const TensorInfo& tensor : tensors_) {
      const std::optional<uint64_t> bytes = checked_bytes(tensor.dtype, tensor.shape);
      if (!bytes || __builtin_add_overflow(size_, *bytes, &size_))
        throw Error(name.string() + ": tensor " + describe(tensor) + " has no valid size");
      if (&tensor != tensors_.data() && (&tensor)[-1].name == tensor.name)
        throw Error(name.string() + ": tensor " + describe(tensor) + " is listed twice");
    }
  }

  Tensor read(std::string_view name) const override {
    throw Error(path_.string() + ": tensor " + quote(name) + ": only the headers are here, not the weights");
  }
  std::optional<std::string> file(std::string_view /*name*/) const override { return std::nullopt; }
  uint64_t size_on_disk() const override { return size_; }

 private:
  uint64_t size_ = 0;
};

}  // namespace

std::unique_ptr<Checkpoint> checkpoint_of_headers(const std::filesystem::path& name, const nlohmann::json& config,
                                                  std::vector<TensorInfo> tensors) {
  return language_model_of(separate_experts(std::make_unique<HeaderCheckpoint>(name, config, std::move(tensors))));
}

void load_into_memory(const Checkpoint& checkpoint, bool lock, bool copy) {
  constexpr uint64_t kPiece = uint64_t{16} << 20;
  const auto files = checkpoint.mapped_files();
  uint64_t total = 0;
  for (const auto& file : files) {
    total += file->size();
    if (lock) file->lock();  // before the long work: it may be forbidden
  }
  // A copy must fit beside everything else; else the pages of the file have to do, which the system can drop again.
  copy = copy && total < machine_memory().available / 10 * 8;
  Progress progress("Reading weights", static_cast<int64_t>(total), Progress::Unit::bytes);
  for (const auto& file : files)
    for (uint64_t begin = 0; begin < file->size(); begin += kPiece) {
      check_interrupt();
      const uint64_t end = std::min(begin + kPiece, file->size());
      if (copy)
        file->copy_to_large_pages(begin, end);
      else
        file->preload(begin, end);
      progress.advance(static_cast<int64_t>(end - begin));
    }
}

std::string describe(const TensorInfo& info) {
  return quote(info.name) + " " + std::string(name(info.dtype)) + " " + to_string(info.shape);
}

std::optional<uint64_t> checked_bytes(DType dtype, const Shape& shape) {
  uint64_t bytes = item_size(dtype);
  for (const int64_t dim : shape)
    if (dim < 0 || __builtin_mul_overflow(bytes, static_cast<uint64_t>(dim), &bytes) || bytes >> 63 != 0)
      return std::nullopt;
  return bytes;
}

const TensorInfo* find_tensor(const std::vector<TensorInfo>& tensors, std::string_view name) {
  const auto at = std::lower_bound(tensors.begin(), tensors.end(), name,
                                   [](const TensorInfo& info, std::string_view n) { return info.name < n; });
  return at != tensors.end() && at->name == name ? &*at : nullptr;
}

std::unique_ptr<Checkpoint> open_checkpoint(const std::filesystem::path& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (path.empty() || status.type() == std::filesystem::file_type::not_found)
    throw Error(path.string() + ": no such file or folder");
  if (error) throw Error(path.string() + ": cannot be read: " + error.message());
  if (std::filesystem::is_directory(status))
    return language_model_of(separate_experts(open_safetensors_checkpoint(path)));
  if (path.extension() == ".gguf" || (std::filesystem::is_regular_file(status) && starts_with_gguf(path)))
    return open_gguf_checkpoint(path);
  throw Error(path.string() + ": not a model: give a folder with config.json and safetensors files, or a .gguf file");
}

}  // namespace turboquant
