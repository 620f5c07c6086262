// Reader of one safetensors file: 8 bytes little-endian header size, a JSON header, the data of the tensors.
// https://github.com/huggingface/safetensors#format
#include "io/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "turboquant/error.h"

namespace turboquant {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are used where they lie in the file");

struct HeaderEntry {
  TensorInfo info;
  uint64_t begin = 0;  // data_offsets
  uint64_t end = 0;
};

// Takes the header from the JSON parser as it reads it: no document tree is built, so a header costs little more memory
// than its text, and nothing is nested deeper than three levels: the header, a tensor, its shape or offsets.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderHandler(std::string where, std::vector<HeaderEntry>& entries, std::map<std::string, std::string>& metadata)
      : where_(std::move(where)), entries_(entries), metadata_(metadata) {}

  bool null() override {
    // What some writers put for no metadata, and the reference implementation reads as such.
    if (level_ != Level::header || name_ != "__metadata__") return unexpected("null");
    if (has_metadata_) fail("__metadata__ appears twice");
    has_metadata_ = true;
    return true;
  }
  bool boolean(bool) override { return unexpected("true or false"); }
  bool number_integer(number_integer_t value) override {
    // The parser calls this for negative numbers only.
    fail("negative number " + std::to_string(value) + " in " + field_name());
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (level_ != Level::list) return unexpected("a number");
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      fail("number " + std::to_string(value) + " in " + field_name() + " is too large");
    if (field_ == Field::shape) {
      if (dims_.size() == Shape::kMaxRank)
        fail("more than " + std::to_string(Shape::kMaxRank) + " dimensions, which is not supported");
      dims_.push_back(static_cast<int64_t>(value));
    } else {
      if (n_offsets_ == 2) fail("data_offsets must be two numbers");
      (n_offsets_ == 0 ? current_.begin : current_.end) = value;
      ++n_offsets_;
    }
    return true;
  }
  bool number_float(number_float_t, const string_t& text) override {
    fail(quote(text) + " in " + field_name() + " is not a whole number of 64 bits");
  }
  bool string(string_t& text) override {
    if (level_ == Level::metadata) {
      if (!metadata_.emplace(key_, std::move(text)).second) fail("key " + quote(key_) + " appears twice");
      return true;
    }
    if (level_ != Level::tensor || field_ != Field::dtype) return unexpected("a string");
    const auto dtype = dtype_from_name(text);
    if (!dtype) fail("element type " + quote(text) + " is not supported");
    current_.info.dtype = *dtype;
    return true;
  }
  bool binary(binary_t&) override { return unexpected("binary data"); }

  bool start_object(size_t) override {
    if (level_ == Level::start) {
      level_ = Level::header;
    } else if (level_ == Level::header && name_ == "__metadata__") {
      if (has_metadata_) fail("__metadata__ appears twice");
      has_metadata_ = true;
      level_ = Level::metadata;
    } else if (level_ == Level::header) {
      current_ = HeaderEntry{};
      current_.info.name = name_;
      has_dtype_ = has_shape_ = has_offsets_ = false;
      level_ = Level::tensor;
    } else {
      return unexpected("an object");
    }
    return true;
  }
  bool key(string_t& text) override {
    if (level_ == Level::header) {
      name_ = std::move(text);
    } else if (level_ == Level::metadata) {
      key_ = std::move(text);
    } else {
      bool* seen = nullptr;
      if (text == "dtype") {
        field_ = Field::dtype;
        seen = &has_dtype_;
      } else if (text == "shape") {
        field_ = Field::shape;
        seen = &has_shape_;
      } else if (text == "data_offsets") {
        field_ = Field::offsets;
        seen = &has_offsets_;
      } else {
        fail("unknown field " + quote(text) + "; expected dtype, shape and data_offsets");
      }
      if (*seen) fail(field_name() + " appears twice");
      *seen = true;
    }
    return true;
  }
  bool end_object() override {
    if (level_ == Level::tensor) {
      if (!has_dtype_) fail("dtype is missing");
      if (!has_shape_) fail("shape is missing");
      if (!has_offsets_) fail("data_offsets is missing");
      entries_.push_back(std::move(current_));
    }
    level_ = level_ == Level::header ? Level::end : Level::header;
    return true;
  }
  bool start_array(size_t) override {
    if (level_ != Level::tensor || field_ == Field::dtype) return unexpected("a list");
    level_ = Level::list;
    dims_.clear();
    n_offsets_ = 0;
    return true;
  }
  bool end_array() override {
    if (field_ == Field::shape)
      current_.info.shape = Shape(dims_);
    else if (n_offsets_ != 2)
      fail("data_offsets must be two numbers");
    level_ = Level::tensor;
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception& error) override {
    throw Error(where_ + ": the header is not valid JSON: " + json_problem(error) +
                "; the file is damaged or not a safetensors file");
  }

 private:
  enum class Level { start, header, metadata, tensor, list, end };
  enum class Field { dtype, shape, offsets };

  std::string field_name() const {
    if (level_ != Level::tensor && level_ != Level::list) return "the header";
    return field_ == Field::dtype ? "dtype" : field_ == Field::shape ? "shape" : "data_offsets";
  }
  [[noreturn]] void fail(const std::string& problem) const {
    std::string tensor;
    if (level_ == Level::tensor || level_ == Level::list) tensor = "tensor " + quote(name_) + ": ";
    if (level_ == Level::metadata) tensor = "__metadata__: ";
    throw Error(where_ + ": " + tensor + problem + "; the header is damaged");
  }
  bool unexpected(const std::string& what) const {
    if (level_ == Level::start) fail("the header must be a JSON object, not " + what);
    if (level_ == Level::header) fail("expected an object for " + quote(name_) + ", got " + what);
    if (level_ == Level::metadata) fail("expected a string for " + quote(key_) + ", got " + what);
    fail(what + " does not belong in " + field_name());
  }

  std::string where_;
  std::vector<HeaderEntry>& entries_;
  std::map<std::string, std::string>& metadata_;
  Level level_ = Level::start;
  Field field_ = Field::dtype;
  std::string name_;  // of the tensor
  std::string key_;   // of the metadata
  HeaderEntry current_;
  std::vector<int64_t> dims_;
  int n_offsets_ = 0;
  bool has_metadata_ = false;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
};

// The JSON text of the header.
std::string_view header_text(const MappedFile& file) {
  const std::string where = file.path().string();
  const auto* chars = reinterpret_cast<const char*>(file.data());
  const std::string_view all(chars, static_cast<size_t>(file.size()));
  if (all.starts_with("version https://git-lfs"))
    throw Error(where + ": this is a Git LFS pointer, not the file itself; fetch it with: git lfs pull");
  if (all.starts_with("GGUF")) throw Error(where + ": this is a GGUF file under the name of a safetensors file");
  uint64_t size = 0;
  if (all.size() < sizeof size)
    throw Error(where + ": only " + std::to_string(all.size()) +
                " bytes long; the file is damaged or was not fully downloaded");
  std::memcpy(&size, chars, sizeof size);
  if (size > kMaxJsonBytes)
    throw Error(where + ": header of " + std::to_string(size) + " bytes, at most " + std::to_string(kMaxJsonBytes) +
                " are allowed; the file is damaged or not a safetensors file");
  if (size > all.size() - sizeof size)
    throw Error(where + ": header of " + std::to_string(size) + " bytes in a file of " + std::to_string(all.size()) +
                "; the file is damaged or was not fully downloaded");
  const std::string_view text = all.substr(sizeof size, static_cast<size_t>(size));
  if (!text.starts_with('{'))
    throw Error(where + ": the header does not begin with '{'; the file is damaged or not a safetensors file");
  // The JSON parser takes a zero byte for the end of its input.
  if (text.find('\0') != text.npos)
    throw Error(where + ": the header holds zero bytes; the file is damaged or was not fully downloaded");
  return text;
}

// Throws unless the tensors fill the data exactly.
void check_entries(const std::vector<HeaderEntry>& entries, uint64_t data_bytes, const std::string& where) {
  const auto fail = [&](const HeaderEntry& entry, const std::string& problem) {
    throw Error(where + ": tensor " + quote(entry.info.name) + ": " + problem +
                "; the file is damaged or was not fully downloaded");
  };
  const auto offsets = [](const HeaderEntry& entry) {
    return "data_offsets [" + std::to_string(entry.begin) + ", " + std::to_string(entry.end) + "]";
  };
  for (const HeaderEntry& entry : entries) {
    if (entry.begin > entry.end) fail(entry, offsets(entry) + " end before they begin");
    if (entry.end > data_bytes)
      fail(entry, offsets(entry) + " outside the file's " + std::to_string(data_bytes) + " bytes of data");
    const auto bytes = checked_bytes(entry.info.dtype, entry.info.shape);
    if (!bytes) {
      fail(entry, "shape " + to_string(entry.info.shape) + " is too large");
    } else if (*bytes != entry.end - entry.begin) {
      fail(entry, offsets(entry) + " hold " + std::to_string(entry.end - entry.begin) + " bytes, but " +
                      std::string(name(entry.info.dtype)) + " " + to_string(entry.info.shape) + " takes " +
                      std::to_string(*bytes));
    }
  }
  std::vector<const HeaderEntry*> by_place;
  by_place.reserve(entries.size());
  for (const HeaderEntry& entry : entries) by_place.push_back(&entry);
  std::sort(by_place.begin(), by_place.end(), [](const HeaderEntry* a, const HeaderEntry* b) {
    return a->begin != b->begin ? a->begin < b->begin : a->end < b->end;
  });
  uint64_t next = 0;
  const HeaderEntry* last = nullptr;
  for (const HeaderEntry* entry : by_place) {
    if (entry->begin < next) fail(*entry, offsets(*entry) + " overlap tensor " + quote(last->info.name));
    if (entry->begin > next)
      fail(*entry,
           std::to_string(entry->begin - next) + " bytes before its " + offsets(*entry) + " belong to no tensor");
    next = entry->end;
    last = entry;
  }
  if (next != data_bytes)
    throw Error(where + ": " + std::to_string(data_bytes - next) +
                " bytes behind the last tensor belong to none; the file is damaged");
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(MappedFile::open(path)) {
  const std::string where = path.string();
  const std::string_view text = header_text(*file_);
  std::vector<HeaderEntry> entries;
  HeaderHandler handler(where, entries, metadata_);
  nlohmann::json::sax_parse(text.begin(), text.end(), &handler);
  const uint64_t data_begin = sizeof(uint64_t) + text.size();
  check_entries(entries, file_->size() - data_begin, where);

  std::sort(entries.begin(), entries.end(),
            [](const HeaderEntry& a, const HeaderEntry& b) { return a.info.name < b.info.name; });
  tensors_.reserve(entries.size());
  offsets_.reserve(entries.size());
  for (size_t i = 1; i < entries.size(); ++i)
    if (entries[i - 1].info.name == entries[i].info.name)
      throw Error(where + ": tensor " + quote(entries[i].info.name) + " appears twice; the header is damaged");
  for (HeaderEntry& entry : entries) {
    if (entry.info.name.starts_with(kPaddingPrefix)) continue;
    tensors_.push_back(std::move(entry.info));
    offsets_.push_back(data_begin + entry.begin);
  }
}

std::vector<TensorInfo> safetensors_header_tensors(std::string_view header, const std::string& where) {
  std::vector<HeaderEntry> entries;
  std::map<std::string, std::string> metadata;
  HeaderHandler handler(where, entries, metadata);
  nlohmann::json::sax_parse(header.begin(), header.end(), &handler);
  std::vector<TensorInfo> tensors;
  for (HeaderEntry& entry : entries)
    if (!entry.info.name.starts_with(kPaddingPrefix)) tensors.push_back(std::move(entry.info));
  return tensors;
}

Tensor SafetensorsFile::tensor(std::string_view name) const {
  const TensorInfo* info = find(name);
  if (info == nullptr) throw Error(path().string() + ": no tensor " + quote(name));
  return tensor_in_file(file_, offsets_[static_cast<size_t>(info - tensors_.data())], info->dtype, info->shape);
}

}  // namespace turboquant
