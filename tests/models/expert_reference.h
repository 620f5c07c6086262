// Decoders with experts (mixtral, qwen3, qwen3_moe) once more, in plain double precision, token by token and expert by
// expert: an independent check of the model. And small random checkpoints for it.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "core/random.h"
#include "io/checkpoint.h"
#include "io/experts.h"

namespace turboquant {

class MemoryModel final : public Checkpoint {
 public:
  explicit MemoryModel(nlohmann::json config) {
    path_ = "test-model";
    config_ = std::move(config);
  }
  void set(const std::string& name, const Tensor& tensor) {
    values_[name] = tensor;
    tensors_.clear();
    for (const auto& [key, value] : values_) tensors_.push_back({key, value.dtype(), value.shape()});
  }
  /// Random values around `mean`.
  void random(const std::string& name, const Shape& shape, double deviation, float mean = 0) {
    std::vector<float> values = random_normal(1000 + values_.size(), shape.elements());
    for (float& v : values) v = mean + static_cast<float>(deviation) * v;
    set(name, from_float(values.data(), shape, DType::f32));
  }
  void linear(const std::string& module, int64_t rows, int64_t cols) {
    random(module + ".weight", {rows, cols}, 1.5 / std::sqrt(static_cast<double>(cols)));
  }

  Tensor read(std::string_view name) const override { return values_.find(name)->second; }
  std::optional<std::string> file(std::string_view) const override { return std::nullopt; }
  uint64_t size_on_disk() const override { return 0; }

 private:
  std::map<std::string, Tensor, std::less<>> values_;
};

/// A random model of 3 layers with the names that its architecture's checkpoints have.
inline MemoryModel make_expert_model(const std::string& architecture,
                                     const nlohmann::json& changes = nlohmann::json::object()) {
  const bool mixtral = architecture == "mixtral", moe = mixtral || architecture == "qwen3_moe";
  nlohmann::json config = {{"model_type", architecture},
                           {"hidden_size", 64},
                           {"intermediate_size", 96},
                           {"num_hidden_layers", 3},
                           {"num_attention_heads", 4},
                           {"num_key_value_heads", 2},
                           {"head_dim", 32},
                           {"vocab_size", 80},
                           {"max_position_embeddings", 512},
                           {"rms_norm_eps", 1e-5},
                           {"tie_word_embeddings", !moe}};
  if (moe) {
    config[mixtral ? "num_local_experts" : "num_experts"] = 7;
    config["num_experts_per_tok"] = 3;
  }
  if (architecture == "qwen3_moe") config["moe_intermediate_size"] = 48;
  config.update(changes);
  MemoryModel model(config);
  model.random("model.embed_tokens.weight", {80, 64}, 0.7);
  if (moe) model.linear("lm_head", 80, 64);
  model.random("model.norm.weight", {64}, 0.2, 1);
  const std::vector<int64_t> dense = config.value("mlp_only_layers", std::vector<int64_t>());
  for (int64_t i = 0; i < 3; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".", attention = layer + "self_attn.";
    model.random(layer + "input_layernorm.weight", {64}, 0.2, 1);
    model.random(layer + "post_attention_layernorm.weight", {64}, 0.2, 1);
    model.linear(attention + "q_proj", 128, 64);
    model.linear(attention + "k_proj", 64, 64);
    model.linear(attention + "v_proj", 64, 64);
    model.linear(attention + "o_proj", 64, 128);
    if (!mixtral) {
      model.random(attention + "q_norm.weight", {32}, 0.3, 1);
      model.random(attention + "k_norm.weight", {32}, 0.3, 1);
    }
    const bool experts = moe && (mixtral || ((i + 1) % config.value("decoder_sparse_step", int64_t{1}) == 0 &&
                                             std::find(dense.begin(), dense.end(), i) == dense.end()));
    if (!experts) {
      model.linear(layer + "mlp.gate_proj", 96, 64);
      model.linear(layer + "mlp.up_proj", 96, 64);
      model.linear(layer + "mlp.down_proj", 64, 96);
      continue;
    }
    const std::string block = layer + (mixtral ? "block_sparse_moe." : "mlp.");
    model.linear(block + "gate", 7, 64);
    for (int e = 0; e < 7; ++e) {
      const std::string expert = block + "experts." + std::to_string(e) + ".";
      const int64_t width = mixtral ? 96 : 48;
      model.linear(expert + (mixtral ? "w1" : "gate_proj"), width, 64);
      model.linear(expert + (mixtral ? "w3" : "up_proj"), width, 64);
      model.linear(expert + (mixtral ? "w2" : "down_proj"), 64, width);
    }
  }
  return model;
}

class ExpertReference {
 public:
  using Row = std::vector<double>;

  explicit ExpertReference(const Checkpoint& model) : model_(model), config_(model.config()) {}

  /// Logits of all tokens, one behind the other.
  Row logits(const std::vector<int32_t>& tokens) const {
    const std::vector<Row> table = matrix("model.embed_tokens");
    std::vector<Row> x;
    for (const int32_t token : tokens) x.push_back(table[static_cast<size_t>(token)]);
    for (int i = 0; i < config_.at("num_hidden_layers"); ++i) {
      const std::string layer = "model.layers." + std::to_string(i) + ".";
      std::vector<Row> normed;
      for (const Row& row : x) normed.push_back(norm(row, vector(layer + "input_layernorm.weight")));
      const std::vector<Row> seen = attention(normed, layer + "self_attn.");
      for (size_t t = 0; t < x.size(); ++t) {
        add(x[t], seen[t], 1);
        const Row in = norm(x[t], vector(layer + "post_attention_layernorm.weight"));
        if (model_.find(layer + "block_sparse_moe.gate.weight") != nullptr) {
          add(x[t], experts(in, layer + "block_sparse_moe.", {"w1", "w3", "w2"}), 1);
        } else if (model_.find(layer + "mlp.gate.weight") != nullptr) {
          add(x[t], experts(in, layer + "mlp.", {"gate_proj", "up_proj", "down_proj"}), 1);
        } else {
          add(x[t], block(in, layer + "mlp.", {"gate_proj", "up_proj", "down_proj"}), 1);
        }
      }
    }
    Row all;
    const bool tied = config_.at("tie_word_embeddings");
    for (const Row& row : x) {
      const Row some = times(norm(row, vector("model.norm.weight")), tied ? "model.embed_tokens" : "lm_head");
      all.insert(all.end(), some.begin(), some.end());
    }
    return all;
  }

 private:
  using Names = std::array<std::string, 3>;  // gate, up, down

  Row vector(const std::string& name) const {
    const Tensor tensor = model_.read(name);
    return {tensor.data<float>(), tensor.data<float>() + tensor.elements()};
  }
  std::vector<Row> matrix(const std::string& module) const {
    const Tensor tensor = model_.read(module + ".weight");
    std::vector<Row> rows;
    for (int64_t r = 0; r < tensor.dim(0); ++r) rows.push_back(vector_of(tensor, r));
    return rows;
  }
  static Row vector_of(const Tensor& tensor, int64_t row) {
    const float* data = tensor.data<float>() + row * tensor.dim(1);
    return {data, data + tensor.dim(1)};
  }
  static double dot(const Row& a, const Row& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  }
  static void add(Row& x, const Row& y, double weight) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += weight * y[i];
  }
  Row times(const Row& x, const std::string& module) const {
    Row y;
    for (const Row& row : matrix(module)) y.push_back(dot(row, x));
    return y;
  }
  Row norm(Row x, const Row& weight) const {
    const double scale =
        1 / std::sqrt(dot(x, x) / static_cast<double>(x.size()) + config_.at("rms_norm_eps").get<double>());
    for (size_t i = 0; i < x.size(); ++i) x[i] *= scale * weight[i];
    return x;
  }

  Row block(const Row& x, const std::string& prefix, const Names& names) const {
    Row gate = times(x, prefix + names[0]);
    const Row up = times(x, prefix + names[1]);
    for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
    return times(gate, prefix + names[2]);
  }

  // Mixtral always counts the chosen experts so that they sum up to 1, Qwen if norm_topk_prob says so.
  Row experts(const Row& x, const std::string& prefix, const Names& names) const {
    const Row logits = times(x, prefix + "gate");
    double all = 0, chosen = 0;
    std::vector<std::pair<double, int>> order;
    for (size_t e = 0; e < logits.size(); ++e) {
      all += std::exp(logits[e]);
      order.emplace_back(-logits[e], static_cast<int>(e));
    }
    std::sort(order.begin(), order.end());
    order.resize(config_.at("num_experts_per_tok"));
    for (const auto& [negative, e] : order) chosen += std::exp(-negative);
    const bool normalize = config_.at("model_type") == "mixtral" || config_.value("norm_topk_prob", false);
    Row y(x.size());
    for (const auto& [negative, e] : order)
      add(y, block(x, prefix + "experts." + std::to_string(e) + ".", names),
          std::exp(-negative) / (normalize ? chosen : all));
    return y;
  }

  // A head at a position: normed if the model has norms of queries and keys, then rotated.
  Row head(const Row& all, size_t index, size_t position, const std::string& norm_name) const {
    const size_t dim = config_.at("head_dim");
    Row x(all.begin() + static_cast<std::ptrdiff_t>(index * dim),
          all.begin() + static_cast<std::ptrdiff_t>((index + 1) * dim));
    if (model_.find(norm_name) != nullptr) x = norm(x, vector(norm_name));
    Row y = x;
    for (size_t i = 0; i < dim / 2; ++i) {
      const double angle =
          static_cast<double>(position) *
          std::pow(config_.value("rope_theta", 10000.0), -2.0 * static_cast<double>(i) / static_cast<double>(dim));
      y[i] = x[i] * std::cos(angle) - x[i + dim / 2] * std::sin(angle);
      y[i + dim / 2] = x[i + dim / 2] * std::cos(angle) + x[i] * std::sin(angle);
    }
    return y;
  }

  std::vector<Row> attention(const std::vector<Row>& x, const std::string& prefix) const {
    const size_t heads = config_.at("num_attention_heads"), kv_heads = config_.at("num_key_value_heads"),
                 dim = config_.at("head_dim");
    std::vector<Row> q, k, v, out;
    for (const Row& row : x) {
      q.push_back(times(row, prefix + "q_proj"));
      k.push_back(times(row, prefix + "k_proj"));
      v.push_back(times(row, prefix + "v_proj"));
    }
    for (size_t t = 0; t < x.size(); ++t) {
      Row seen(heads * dim);
      for (size_t h = 0; h < heads; ++h) {
        const size_t shared = h * kv_heads / heads;
        const Row query = head(q[t], h, t, prefix + "q_norm.weight");
        Row p;
        double sum = 0;
        for (size_t s = 0; s <= t; ++s) {
          p.push_back(std::exp(dot(query, head(k[s], shared, s, prefix + "k_norm.weight")) /
                               std::sqrt(static_cast<double>(dim))));
          sum += p.back();
        }
        for (size_t s = 0; s <= t; ++s)
          for (size_t d = 0; d < dim; ++d) seen[h * dim + d] += p[s] / sum * v[s][shared * dim + d];
      }
      out.push_back(times(seen, prefix + "o_proj"));
    }
    return out;
  }

  const Checkpoint& model_;
  const nlohmann::json& config_;
};

}  // namespace turboquant
