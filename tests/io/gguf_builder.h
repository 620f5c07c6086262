// Builds GGUF files in memory, good and bad ones alike.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "io/temp_folder.h"

namespace turboquant {

/// Bytes, little endian, appended one after the other.
class Bytes {
 public:
  template <typename T>
  Bytes& put(T value) {
    char raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof(T));
    text_.append(raw, sizeof(T));
    return *this;
  }
  Bytes& raw(std::string_view bytes) {
    text_ += bytes;
    return *this;
  }
  Bytes& string(std::string_view value) { return put<uint64_t>(value.size()).raw(value); }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

/// A file of metadata and tensors. Fields that a test spoils are public.
class GgufBuilder {
 public:
  uint32_t version = 3;
  uint64_t alignment = 32;
  int64_t extra_entries = 0, extra_tensors = 0;  // added to the counts of the header
  std::string magic = "GGUF";

  GgufBuilder& u32(std::string_view key, uint32_t value) { return entry(key, 4, Bytes().put(value).text()); }
  GgufBuilder& f32(std::string_view key, float value) { return entry(key, 6, Bytes().put(value).text()); }
  GgufBuilder& flag(std::string_view key, uint8_t value) { return entry(key, 7, Bytes().put(value).text()); }
  GgufBuilder& text(std::string_view key, std::string_view value) {
    return entry(key, 8, Bytes().string(value).text());
  }
  GgufBuilder& texts(std::string_view key, const std::vector<std::string>& values) {
    Bytes bytes;
    bytes.put<uint32_t>(8).put<uint64_t>(values.size());
    for (const std::string& value : values) bytes.string(value);
    return entry(key, 9, bytes.text());
  }
  GgufBuilder& ints(std::string_view key, const std::vector<int32_t>& values) { return array(key, 5, values); }
  GgufBuilder& floats(std::string_view key, const std::vector<float>& values) { return array(key, 6, values); }
  /// Any value type with any bytes.
  GgufBuilder& entry(std::string_view key, uint32_t type, std::string_view bytes) {
    entries_.push_back({std::string(key), Bytes().string(key).put(type).raw(bytes).text()});
    return *this;
  }
  GgufBuilder& without(std::string_view key) {
    std::erase_if(entries_, [key](const Named& entry) { return entry.name == key; });
    std::erase_if(tensors_, [key](const Tensor& tensor) { return tensor.name == key; });
    return *this;
  }

  /// `dims` outermost first, as everywhere in the project.
  GgufBuilder& tensor(std::string_view name, uint32_t type, std::vector<uint64_t> dims, std::string_view data) {
    tensors_.push_back({std::string(name), type, std::move(dims), std::string(data), -1});
    return *this;
  }
  GgufBuilder& tensor(std::string_view name, std::vector<uint64_t> dims, const std::vector<float>& values) {
    return tensor(name, 0, std::move(dims),
                  {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
  }
  /// Puts the last tensor at this offset of the data, wherever its bytes are.
  GgufBuilder& at(int64_t offset) {
    tensors_.back().offset = offset;
    return *this;
  }

  std::string build() const {
    Bytes out;
    out.raw(magic).put(version);
    out.put<uint64_t>(tensors_.size() + static_cast<uint64_t>(extra_tensors));
    out.put<uint64_t>(entries_.size() + static_cast<uint64_t>(extra_entries));
    for (const Named& entry : entries_) out.raw(entry.bytes);
    std::string data;
    for (const Tensor& tensor : tensors_) {
      data.resize((data.size() + alignment - 1) / alignment * alignment);
      out.string(tensor.name).put(static_cast<uint32_t>(tensor.dims.size()));
      for (auto dim = tensor.dims.rbegin(); dim != tensor.dims.rend(); ++dim) out.put(*dim);
      out.put(tensor.type).put(tensor.offset >= 0 ? static_cast<uint64_t>(tensor.offset) : data.size());
      data += tensor.data;
    }
    std::string file = out.text();
    if (!data.empty()) file.resize((file.size() + alignment - 1) / alignment * alignment);
    return file + data;
  }

 private:
  struct Named {
    std::string name, bytes;
  };
  struct Tensor {
    std::string name;
    uint32_t type;
    std::vector<uint64_t> dims;
    std::string data;
    int64_t offset;
  };

  template <typename T>
  GgufBuilder& array(std::string_view key, uint32_t type, const std::vector<T>& values) {
    Bytes bytes;
    bytes.put(type).template put<uint64_t>(values.size());
    for (const T value : values) bytes.put(value);
    return entry(key, 9, bytes.text());
  }

  std::vector<Named> entries_;
  std::vector<Tensor> tensors_;
};

/// A file that is removed at the end of the test.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::string_view bytes) { write(bytes); }

  void write(std::string_view bytes) const {
    std::filesystem::remove(path_);  // cutting the old file instead would wait for the disk
    std::ofstream(path_, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  TempFolder folder_;
  std::filesystem::path path_ = folder_ / "model.gguf";
};

/// A Llama model of one layer: width 8, 2 heads of 4, 1 key-value head, 6 tokens, all F32, every weight another number.
inline GgufBuilder tiny_llama() {
  GgufBuilder b;
  b.text("general.architecture", "llama").u32("llama.block_count", 1).u32("llama.context_length", 64);
  b.u32("llama.embedding_length", 8).u32("llama.feed_forward_length", 12).u32("llama.attention.head_count", 2);
  b.u32("llama.attention.head_count_kv", 1).f32("llama.attention.layer_norm_rms_epsilon", 1e-5F);
  b.f32("llama.rope.freq_base", 500000.0F).u32("llama.rope.dimension_count", 4);
  b.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "smollm");
  b.texts("tokenizer.ggml.tokens", {"<s>", "</s>", "a", "b", "ab", "<tool>"});
  b.ints("tokenizer.ggml.token_type", {3, 3, 1, 1, 1, 4}).texts("tokenizer.ggml.merges", {"a b"});
  b.u32("tokenizer.ggml.bos_token_id", 0).u32("tokenizer.ggml.eos_token_id", 1);
  b.text("tokenizer.chat_template", "{{ messages }}");
  float next = 0;
  const auto add = [&](std::string_view name, std::vector<uint64_t> dims) {
    uint64_t n = 1;
    for (const uint64_t dim : dims) n *= dim;
    std::vector<float> values(n);
    for (float& value : values) value = next++;
    b.tensor(name, std::move(dims), values);
  };
  add("token_embd.weight", {6, 8});
  add("blk.0.attn_norm.weight", {8});
  add("blk.0.attn_q.weight", {8, 8});
  add("blk.0.attn_k.weight", {4, 8});
  add("blk.0.attn_v.weight", {4, 8});
  add("blk.0.attn_output.weight", {8, 8});
  add("blk.0.ffn_norm.weight", {8});
  add("blk.0.ffn_gate.weight", {12, 8});
  add("blk.0.ffn_up.weight", {12, 8});
  add("blk.0.ffn_down.weight", {8, 12});
  add("output_norm.weight", {8});
  return b;
}

}  // namespace turboquant
