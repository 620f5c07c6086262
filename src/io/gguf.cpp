#include "io/gguf.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

#include "io/files.h"

namespace turboquant {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF files are read in place as little endian");

constexpr uint64_t kMaxKeyBytes = 65535;  // the specification's limit
constexpr uint64_t kMaxNameBytes = 1024;  // llama.cpp's own limit is 64
constexpr uint64_t kMaxAlignment = 1 << 20;
constexpr uint64_t kDefaultAlignment = 32;
// The least that one entry takes: key length, a character, type, value; name length, a character, rank, one dimension,
// type, offset. They bound the counts of the header.
constexpr uint64_t kMinEntryBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

// Numbers that GGUF gives to the types of metadata.
enum ValueType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

uint64_t value_bytes(uint32_t type) {
  switch (type) {
    case u8:
    case i8:
    case boolean:
      return 1;
    case u16:
    case i16:
      return 2;
    case u32:
    case i32:
    case f32:
      return 4;
    case u64:
    case i64:
    case f64:
      return 8;
    default:
      return 0;
  }
}

template <typename T>
T load(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

bool is_integer(uint32_t type) { return value_bytes(type) != 0 && type != f32 && type != f64 && type != boolean; }
bool is_number(uint32_t type) { return value_bytes(type) != 0 && type != boolean; }

// Nothing if it does not fit.
std::optional<int64_t> load_integer(uint32_t type, const std::byte* p) {
  switch (type) {
    case u8:
      return load<uint8_t>(p);
    case i8:
      return load<int8_t>(p);
    case u16:
      return load<uint16_t>(p);
    case i16:
      return load<int16_t>(p);
    case u32:
      return load<uint32_t>(p);
    case i32:
      return load<int32_t>(p);
    case i64:
      return load<int64_t>(p);
    default: {
      const auto value = load<uint64_t>(p);
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
      return static_cast<int64_t>(value);
    }
  }
}

// Metadata such as 1e-5 is stored as a float; its shortest decimal is what the model's author wrote.
double as_written(float value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), value).ptr;
  double result = value;
  std::from_chars(text, end, result);
  return result;
}

double load_number(uint32_t type, const std::byte* p) {
  if (type == f32) return as_written(load<float>(p));
  if (type == f64) return load<double>(p);
  if (type == u64) return static_cast<double>(load<uint64_t>(p));
  return static_cast<double>(*load_integer(type, p));
}

}  // namespace

// Walks the header from front to back; every step first asks whether the file is long enough.
class GgufFile::Parser {
 public:
  explicit Parser(GgufFile& gguf) : gguf_(gguf), data_(gguf.file_->data()), size_(gguf.file_->size()) {}

  void parse() {
    parse_magic();
    const auto tensor_count = take<uint64_t>("the number of tensors");
    const auto entry_count = take<uint64_t>("the number of metadata entries");
    if (entry_count > left() / kMinEntryBytes)
      gguf_.fail("says that it has " + std::to_string(entry_count) +
                 " metadata entries, more than it can hold; damaged");
    if (tensor_count > left() / kMinTensorBytes)
      gguf_.fail("says that it has " + std::to_string(tensor_count) + " tensors, more than it can hold; damaged");
    for (uint64_t i = 0; i < entry_count; ++i) parse_entry();
    const uint64_t alignment = parse_alignment();
    gguf_.tensors_.reserve(tensor_count);
    for (uint64_t i = 0; i < tensor_count; ++i) parse_tensor(alignment);
    place_tensors(alignment);
  }

 private:
  uint64_t left() const { return size_ - position_; }

  void need(uint64_t bytes, std::string_view what) const {
    if (bytes > left())
      gguf_.fail("is cut off or damaged: " + std::string(what) + " needs " + std::to_string(bytes) +
                 " bytes at offset " + std::to_string(position_) + ", the file has " + std::to_string(size_));
  }

  template <typename T>
  T take(std::string_view what) {
    need(sizeof(T), what);
    const T value = load<T>(data_ + position_);
    position_ += sizeof(T);
    return value;
  }

  std::string_view take_string(uint64_t limit, std::string_view what) {
    const auto length = take<uint64_t>(what);
    if (length > limit)
      gguf_.fail(std::string(what) + " at offset " + std::to_string(position_) + " is " + std::to_string(length) +
                 " bytes long, at most " + std::to_string(limit) + " are allowed; damaged");
    need(length, what);
    const std::string_view text(reinterpret_cast<const char*>(data_ + position_), length);
    position_ += length;
    return text;
  }

  void parse_magic() {
    if (size_ < 4 || std::memcmp(data_, "GGUF", 4) != 0) gguf_.fail("is not a GGUF file (it does not begin with GGUF)");
    position_ = 4;
    const auto version = take<uint32_t>("the version");
    if (version != 0 && (version & 0xffffu) == 0)
      gguf_.fail("is a big-endian GGUF file, which is not supported; convert the model again for little endian");
    if (version == 1)
      gguf_.fail("is GGUF version 1, which is not supported; convert the model again with a newer llama.cpp");
    if (version != 2 && version != 3)
      gguf_.fail("is GGUF version " + std::to_string(version) + "; versions 2 and 3 are supported");
    gguf_.version_ = version;
  }

  void parse_entry() {
    const std::string_view key = take_string(kMaxKeyBytes, "a metadata key");
    if (key.empty()) gguf_.fail("has a metadata entry with an empty key");
    const std::string where = "metadata " + quote(key);
    Value value;
    value.type = take<uint32_t>(where);
    if (value.type == ValueType::array) {
      value.array = true;
      value.type = take<uint32_t>(where);
      value.count = take<uint64_t>(where);
      if (value.type == ValueType::array) gguf_.fail(where + ": arrays of arrays are not supported");
    }
    value.offset = position_;
    if (value.type == string) {
      if (value.count > left() / sizeof(uint64_t))
        gguf_.fail(where + ": says that it has " + std::to_string(value.count) +
                   " strings, more than the file can hold");
      for (uint64_t i = 0; i < value.count; ++i) take_string(size_, where);
    } else {
      const uint64_t bytes = value_bytes(value.type);
      if (bytes == 0) gguf_.fail(where + ": unknown value type " + std::to_string(value.type));
      if (value.count > left() / bytes)
        gguf_.fail(where + ": says that it has " + std::to_string(value.count) +
                   " values, more than the file can hold");
      position_ += value.count * bytes;
      if (value.type == boolean && !value.array && load<uint8_t>(data_ + value.offset) > 1)
        gguf_.fail(where + ": a boolean must be 0 or 1");
    }
    if (!gguf_.metadata_.emplace(key, value).second) gguf_.fail(where + ": the key occurs twice");
  }

  uint64_t parse_alignment() {
    const auto alignment = gguf_.integer("general.alignment");
    if (!alignment) return kDefaultAlignment;
    const auto value = static_cast<uint64_t>(*alignment);
    if (!std::has_single_bit(value) || value > kMaxAlignment)
      gguf_.fail("metadata 'general.alignment': " + std::to_string(value) + " is not a power of two of at most " +
                 std::to_string(kMaxAlignment));
    return value;
  }

  void parse_tensor(uint64_t alignment) {
    GgufTensor tensor;
    tensor.name = take_string(kMaxNameBytes, "a tensor name");
    if (tensor.name.empty()) gguf_.fail("has a tensor without a name");
    const std::string where = "tensor " + quote(tensor.name);
    const auto rank = take<uint32_t>(where);
    if (rank < 1 || rank > 4) gguf_.fail(where + ": rank " + std::to_string(rank) + ", expected 1 to 4");
    std::array<int64_t, 4> dims{};
    int64_t elements = 1;
    for (uint32_t i = 0; i < rank; ++i) {
      const auto dim = take<uint64_t>(where);
      if (dim == 0 || dim > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) ||
          __builtin_mul_overflow(elements, static_cast<int64_t>(dim), &elements))
        gguf_.fail(where + ": dimension " + std::to_string(dim) + " is 0 or makes the tensor too large");
      dims[rank - 1 - i] = static_cast<int64_t>(dim);
    }
    tensor.shape = Shape(std::span<const int64_t>(dims.data(), rank));
    const auto number = take<uint32_t>(where);
    const auto type = gguf_type(number);
    if (!type)
      gguf_.fail(where + ": its type " + gguf_type_name(number) +
                 " is not supported; convert the model again as F16, Q8_0 or one of the K types");
    tensor.type = *type;
    const GgufBlock block = block_of(*type);
    if (tensor.shape.back() % block.elements != 0)
      gguf_.fail(where + ": rows of " + std::to_string(tensor.shape.back()) + " are not a whole number of " +
                 std::string(turboquant::name(*type)) + " blocks of " + std::to_string(block.elements));
    if (__builtin_mul_overflow(static_cast<uint64_t>(elements / block.elements), uint64_t{block.bytes}, &tensor.bytes))
      gguf_.fail(where + ": shape " + to_string(tensor.shape) + " is too large");
    tensor.offset = take<uint64_t>(where);
    if (tensor.offset % alignment != 0)
      gguf_.fail(where + ": offset " + std::to_string(tensor.offset) + " is not a multiple of the alignment " +
                 std::to_string(alignment));
    if (!gguf_.index_.emplace(tensor.name, gguf_.tensors_.size()).second) gguf_.fail(where + ": the name occurs twice");
    gguf_.tensors_.push_back(std::move(tensor));
  }

  // Offsets count from the end of the header, rounded up to the alignment.
  void place_tensors(uint64_t alignment) {
    const uint64_t begin = (position_ + alignment - 1) / alignment * alignment;
    const uint64_t room = begin < size_ ? size_ - begin : 0;
    std::vector<GgufTensor*> by_offset;
    for (GgufTensor& tensor : gguf_.tensors_) {
      if (tensor.offset > room || tensor.bytes > room - tensor.offset)
        gguf_.fail("tensor " + quote(tensor.name) + ": " + std::to_string(tensor.bytes) + " bytes at offset " +
                   std::to_string(tensor.offset) + " end behind the file's " + std::to_string(room) +
                   " bytes of data; cut off or damaged");
      tensor.offset += begin;
      by_offset.push_back(&tensor);
    }
    std::sort(by_offset.begin(), by_offset.end(),
              [](const GgufTensor* a, const GgufTensor* b) { return a->offset < b->offset; });
    for (size_t i = 1; i < by_offset.size(); ++i) {
      const GgufTensor& before = *by_offset[i - 1];
      if (before.offset + before.bytes > by_offset[i]->offset)
        gguf_.fail("tensors " + quote(before.name) + " and " + quote(by_offset[i]->name) + " overlap");
    }
  }

  GgufFile& gguf_;
  const std::byte* data_;
  uint64_t size_;
  uint64_t position_ = 0;
};

GgufFile::GgufFile(const std::filesystem::path& path) : file_(MappedFile::open(path)) { Parser(*this).parse(); }

void GgufFile::fail(const std::string& what) const { throw Error(path().string() + ": " + what); }

const GgufTensor* GgufFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

std::string GgufFile::source_type() const {
  std::map<GgufType, uint64_t> bytes;
  for (const GgufTensor& tensor : tensors_) bytes[tensor.type] += tensor.bytes;
  const auto most =
      std::max_element(bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == bytes.end() ? "none" : std::string(turboquant::name(most->first));
}

const GgufFile::Value* GgufFile::value(std::string_view key, bool array) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) return nullptr;
  if (found->second.array != array)
    fail("metadata " + quote(key) + ": " + (array ? "expected an array" : "expected one value, found an array"));
  return &found->second;
}

std::optional<std::string_view> GgufFile::text(std::string_view key) const {
  const Value* v = value(key, false);
  if (v == nullptr) return std::nullopt;
  if (v->type != string) fail("metadata " + quote(key) + ": expected text");
  const std::byte* p = file_->data() + v->offset;
  return std::string_view(reinterpret_cast<const char*>(p + sizeof(uint64_t)), load<uint64_t>(p));
}

std::optional<int64_t> GgufFile::integer(std::string_view key) const {
  const Value* v = value(key, false);
  if (v == nullptr) return std::nullopt;
  if (!is_integer(v->type)) fail("metadata " + quote(key) + ": expected an integer");
  const auto result = load_integer(v->type, file_->data() + v->offset);
  if (!result || *result < 0) fail("metadata " + quote(key) + ": an integer out of range");
  return result;
}

std::optional<double> GgufFile::number(std::string_view key) const {
  const Value* v = value(key, false);
  if (v == nullptr) return std::nullopt;
  if (!is_number(v->type)) fail("metadata " + quote(key) + ": expected a number");
  const double result = load_number(v->type, file_->data() + v->offset);
  if (!std::isfinite(result)) fail("metadata " + quote(key) + ": not a finite number");
  return result;
}

std::optional<bool> GgufFile::flag(std::string_view key) const {
  const Value* v = value(key, false);
  if (v == nullptr) return std::nullopt;
  if (v->type != boolean) fail("metadata " + quote(key) + ": expected true or false");
  return load<uint8_t>(file_->data() + v->offset) != 0;
}

std::optional<std::vector<std::string_view>> GgufFile::texts(std::string_view key) const {
  const Value* v = value(key, true);
  if (v == nullptr) return std::nullopt;
  if (v->type != string) fail("metadata " + quote(key) + ": expected an array of texts");
  std::vector<std::string_view> result;
  result.reserve(v->count);
  const std::byte* p = file_->data() + v->offset;
  for (uint64_t i = 0; i < v->count; ++i) {
    const auto length = load<uint64_t>(p);
    result.emplace_back(reinterpret_cast<const char*>(p + sizeof(uint64_t)), length);
    p += sizeof(uint64_t) + length;
  }
  return result;
}

std::optional<std::vector<int64_t>> GgufFile::integers(std::string_view key) const {
  const Value* v = value(key, true);
  if (v == nullptr) return std::nullopt;
  if (!is_integer(v->type)) fail("metadata " + quote(key) + ": expected an array of integers");
  std::vector<int64_t> result;
  result.reserve(v->count);
  for (uint64_t i = 0; i < v->count; ++i) {
    const auto element = load_integer(v->type, file_->data() + v->offset + i * value_bytes(v->type));
    if (!element) fail("metadata " + quote(key) + ": an integer out of range");
    result.push_back(*element);
  }
  return result;
}

std::optional<std::vector<float>> GgufFile::numbers(std::string_view key) const {
  const Value* v = value(key, true);
  if (v == nullptr) return std::nullopt;
  if (v->type != f32) fail("metadata " + quote(key) + ": expected an array of 32-bit floats");
  std::vector<float> result(v->count);
  std::memcpy(result.data(), file_->data() + v->offset, v->count * sizeof(float));
  for (const float element : result)
    if (!std::isfinite(element)) fail("metadata " + quote(key) + ": not a finite number");
  return result;
}

}  // namespace turboquant
