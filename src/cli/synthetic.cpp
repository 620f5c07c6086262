#include "cli/synthetic.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "core/half.h"
#include "core/random.h"
#include "nn/roles.h"
#include "quant/rotation.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

struct ModelShape {
  const char* name;
  int64_t hidden, layers, heads, kv_heads, head_dim, intermediate, vocab;
  bool tied;
};

constexpr ModelShape kShapes[] = {
    {"llama-3.2-1b", 2048, 16, 32, 8, 64, 8192, 128256, true},
    {"llama-3.1-8b", 4096, 32, 32, 8, 128, 14336, 128256, false},
};

const ModelShape& shape_of(const std::string& name) {
  std::string known;
  for (const ModelShape& shape : kShapes) {
    if (name == shape.name) return shape;
    known += (known.empty() ? "" : ", ") + std::string(shape.name);
  }
  throw UsageError("--synthetic " + name + ": unknown; known are: " + known);
}

class SyntheticCheckpoint final : public Checkpoint {
 public:
  SyntheticCheckpoint(const ModelShape& shape, int bits, int head_bits, ThreadPool& pool) : pool_(pool) {
    path_ = shape.name;
    config_ = {{"model_type", "llama"},
               {"hidden_size", shape.hidden},
               {"num_hidden_layers", shape.layers},
               {"num_attention_heads", shape.heads},
               {"num_key_value_heads", shape.kv_heads},
               {"head_dim", shape.head_dim},
               {"intermediate_size", shape.intermediate},
               {"vocab_size", shape.vocab},
               {"max_position_embeddings", 131072},
               {"rms_norm_eps", 1e-5},
               {"rope_theta", 500000.0},
               {"tie_word_embeddings", shape.tied}};
    add_matrix("model.embed_tokens", shape.vocab, shape.hidden, head_bits);
    if (!shape.tied) add_matrix("lm_head", shape.vocab, shape.hidden, head_bits);
    add_norm("model.norm.weight", shape.hidden);
    for (int64_t i = 0; i < shape.layers; ++i) {
      const std::string layer = "model.layers." + std::to_string(i) + ".";
      add_norm(layer + "input_layernorm.weight", shape.hidden);
      add_norm(layer + "post_attention_layernorm.weight", shape.hidden);
      add_matrix(layer + "self_attn.q_proj", shape.heads * shape.head_dim, shape.hidden, bits);
      add_matrix(layer + "self_attn.k_proj", shape.kv_heads * shape.head_dim, shape.hidden, bits);
      add_matrix(layer + "self_attn.v_proj", shape.kv_heads * shape.head_dim, shape.hidden, bits);
      add_matrix(layer + "self_attn.o_proj", shape.hidden, shape.heads * shape.head_dim, bits);
      add_matrix(layer + "mlp.gate_proj", shape.intermediate, shape.hidden, bits);
      add_matrix(layer + "mlp.up_proj", shape.intermediate, shape.hidden, bits);
      add_matrix(layer + "mlp.down_proj", shape.hidden, shape.intermediate, bits);
    }
    for (const auto& [name, tensor] : values_) tensors_.push_back({name, tensor.dtype(), tensor.shape()});
  }

  Tensor read(std::string_view name) const override { return values_.find(name)->second; }
  std::optional<std::string> file(std::string_view) const override { return std::nullopt; }
  uint64_t size_on_disk() const override { return 0; }

 private:
  void add_norm(const std::string& name, int64_t width) {
    const std::vector<float> ones(static_cast<size_t>(width), 1.0F);
    values_[name] = from_float(ones.data(), {width}, DType::f32);
  }

  void add_matrix(const std::string& module, int64_t rows, int64_t cols, int bits) {
    Tensor weight = bits == 16 ? Tensor::zeros(DType::f16, {rows, cols})
                               : Tensor::zeros(DType::u8, {tile_count(rows), cols / kGroup, block_bytes(bits)});
    // Any bytes are valid codes. Half-precision values are small ones: exponents below 2^-4.
    auto* words = weight.data<uint64_t>();
    const uint64_t mask = bits == 16 ? 0xafffafffafffafff : ~uint64_t{0};
    const uint64_t seed = path_hash(module);
    pool_.parallel_for(static_cast<int64_t>(weight.bytes() / 8), 1 << 16, [&](int64_t begin, int64_t end) {
      uint64_t state = seed * 0x9e3779b97f4a7c15 + static_cast<uint64_t>(begin) + 1;
      for (int64_t i = begin; i < end; ++i) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        words[i] = state & mask;
      }
    });
    values_[module + ".weight"] = weight;
    if (bits == 16) return;
    // Rows of about unit gain: the tables' values have a root mean square near 40.
    const float scale = 1.0F / (40.0F * std::sqrt(static_cast<float>(cols)));
    values_[module + ".scales"] =
        from_float(std::vector<float>(static_cast<size_t>(rows), scale).data(), {rows}, DType::f16);
    const std::string site = input_site(module) + ".signs";
    if (values_.contains(site)) return;
    const Tensor signs = make_signs(cols, path_hash(site));
    Tensor stored = Tensor::zeros(DType::i8, {cols});
    std::transform(signs.data<float>(), signs.data<float>() + cols, stored.data<int8_t>(),
                   [](float s) { return static_cast<int8_t>(s); });
    values_[site] = stored;
  }

  ThreadPool& pool_;
  std::map<std::string, Tensor, std::less<>> values_;
};

}  // namespace

std::unique_ptr<Checkpoint> make_synthetic(const std::string& shape, int bits, int head_bits, ThreadPool& pool) {
  if (bits < 2 || bits > 4) throw UsageError("--bits " + std::to_string(bits) + ": use 2, 3 or 4");
  if (head_bits != 16 && block_bytes(head_bits) == 0)
    throw UsageError("--head-bits " + std::to_string(head_bits) + ": use 2, 3, 4, 8 or 16");
  return std::make_unique<SyntheticCheckpoint>(shape_of(shape), bits, head_bits, pool);
}

}  // namespace turboquant
