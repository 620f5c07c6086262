// Llama once more, in plain double precision, a whole sequence at a time: an independent check of the model.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "io/checkpoint.h"

namespace turboquant {

/// Angles a position of the pairs of a head, from config.json: Su et al. 2021 (RoFormer), section 3.2.2; linear scaling
/// divides all of them; llama3 scaling as the reference code of Llama 3.1 does it.
inline std::vector<double> reference_frequencies(const nlohmann::json& config, int64_t head_dim) {
  const double theta = config.value("rope_theta", 10000.0);
  const nlohmann::json scaling = config.value("rope_scaling", nlohmann::json::object());
  const std::string type = scaling.value("rope_type", "default");
  std::vector<double> frequencies;
  for (int64_t i = 0; i < head_dim; i += 2) {
    double f = 1 / std::pow(theta, static_cast<double>(i) / static_cast<double>(head_dim));
    if (type == "linear") f /= scaling.at("factor").get<double>();
    if (type == "llama3") {
      const double context = scaling.at("original_max_position_embeddings").get<double>();
      const double low = scaling.at("low_freq_factor").get<double>(),
                   high = scaling.at("high_freq_factor").get<double>();
      // How often the pair turns within the original context: many turns stay, few are slowed down.
      const double turns = context * f / (2 * std::numbers::pi);
      const double keep = std::clamp((turns - low) / (high - low), 0.0, 1.0);
      f = keep * f + (1 - keep) * f / scaling.at("factor").get<double>();
    }
    frequencies.push_back(f);
  }
  return frequencies;
}

class ReferenceModel {
 public:
  using Rows = std::vector<std::vector<double>>;

  /// Reads F32, F16 or BF16 weights.
  explicit ReferenceModel(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {
    const nlohmann::json& config = checkpoint.config();
    const auto size = [&](const char* key) { return config.at(key).get<size_t>(); };
    heads_ = size("num_attention_heads");
    kv_heads_ = config.value("num_key_value_heads", heads_);
    head_dim_ = config.value("head_dim", size("hidden_size") / heads_);
    layers_ = size("num_hidden_layers");
    eps_ = config.at("rms_norm_eps").get<double>();
    tied_ = config.value("tie_word_embeddings", false);
    frequencies_ = reference_frequencies(config, static_cast<int64_t>(head_dim_));
    for (size_t i = 0; i < layers_; ++i) {
      const bool slides = !config.contains("layer_types") || config.at("layer_types").at(i) == "sliding_attention";
      windows_.push_back(slides ? config.value("sliding_window", size_t{0}) : 0);
    }
  }

  /// Logits of every token.
  Rows logits(const std::vector<int32_t>& tokens) const {
    const Rows table = matrix("model.embed_tokens.weight");
    Rows x;
    for (const int32_t token : tokens) x.push_back(table[static_cast<size_t>(token)]);
    for (size_t i = 0; i < layers_; ++i) {
      const std::string layer = "model.layers." + std::to_string(i);
      add(x, attention(norm(x, layer + ".input_layernorm"), layer + ".self_attn", windows_[i]));
      add(x, mlp(norm(x, layer + ".post_attention_layernorm"), layer + ".mlp"));
    }
    return linear(norm(x, "model.norm"), tied_ ? "model.embed_tokens" : "lm_head");
  }

 private:
  std::vector<double> vector(const std::string& name) const {
    const Tensor values = to_float(checkpoint_.read(name));
    return {values.data<float>(), values.data<float>() + values.elements()};
  }
  Rows matrix(const std::string& name) const {
    const std::vector<double> values = vector(name);
    const auto cols = static_cast<size_t>(checkpoint_.find(name)->shape[1]);
    Rows rows;
    for (size_t i = 0; i < values.size(); i += cols) rows.emplace_back(&values[i], &values[i] + cols);
    return rows;
  }
  static void add(Rows& x, const Rows& y) {
    for (size_t t = 0; t < x.size(); ++t)
      for (size_t i = 0; i < x[t].size(); ++i) x[t][i] += y[t][i];
  }
  static double dot(const double* a, const double* b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
  }

  Rows norm(Rows x, const std::string& module) const {
    const std::vector<double> weight = vector(module + ".weight");
    for (std::vector<double>& row : x) {
      const double scale =
          1 / std::sqrt(dot(row.data(), row.data(), row.size()) / static_cast<double>(row.size()) + eps_);
      for (size_t i = 0; i < row.size(); ++i) row[i] *= scale * weight[i];
    }
    return x;
  }

  Rows linear(const Rows& x, const std::string& module) const {
    const Rows weight = matrix(module + ".weight");
    const bool biased = checkpoint_.find(module + ".bias") != nullptr;
    const std::vector<double> bias = biased ? vector(module + ".bias") : std::vector<double>(weight.size());
    Rows y;
    for (const std::vector<double>& row : x) {
      y.emplace_back();
      for (size_t r = 0; r < weight.size(); ++r)
        y.back().push_back(bias[r] + dot(row.data(), weight[r].data(), row.size()));
    }
    return y;
  }

  void rope(Rows& x) const {
    for (size_t position = 0; position < x.size(); ++position)
      for (size_t head = 0; head < x[position].size(); head += head_dim_)
        for (size_t i = 0; i < frequencies_.size(); ++i) {
          double& a = x[position][head + i];
          double& b = x[position][head + i + head_dim_ / 2];
          const double angle = static_cast<double>(position) * frequencies_[i], c = std::cos(angle),
                       s = std::sin(angle);
          const double turned = a * c - b * s;
          b = b * c + a * s;
          a = turned;
        }
  }

  /// A token sees itself and the window - 1 tokens before it; without a window, all before it.
  Rows attention(const Rows& x, const std::string& module, size_t window) const {
    Rows q = linear(x, module + ".q_proj"), k = linear(x, module + ".k_proj");
    const Rows v = linear(x, module + ".v_proj");
    rope(q);
    rope(k);
    Rows out(x.size(), std::vector<double>(heads_ * head_dim_));
    for (size_t t = 0; t < x.size(); ++t)
      for (size_t head = 0; head < heads_; ++head) {
        const size_t shared = head / (heads_ / kv_heads_) * head_dim_, own = head * head_dim_;
        const size_t first = window > 0 && t + 1 > window ? t + 1 - window : 0;
        std::vector<double> p;
        for (size_t s = first; s <= t; ++s)
          p.push_back(dot(&q[t][own], &k[s][shared], head_dim_) / std::sqrt(static_cast<double>(head_dim_)));
        const double largest = *std::max_element(p.begin(), p.end());
        double sum = 0;
        for (double& value : p) sum += value = std::exp(value - largest);
        for (size_t s = first; s <= t; ++s)
          for (size_t d = 0; d < head_dim_; ++d) out[t][own + d] += p[s - first] / sum * v[s][shared + d];
      }
    return linear(out, module + ".o_proj");
  }

  Rows mlp(const Rows& x, const std::string& module) const {
    Rows gate = linear(x, module + ".gate_proj");
    const Rows up = linear(x, module + ".up_proj");
    for (size_t t = 0; t < x.size(); ++t)
      for (size_t i = 0; i < gate[t].size(); ++i) gate[t][i] *= up[t][i] / (1 + std::exp(-gate[t][i]));
    return linear(gate, module + ".down_proj");
  }

  const Checkpoint& checkpoint_;
  size_t heads_ = 0, kv_heads_ = 0, head_dim_ = 0, layers_ = 0;
  double eps_ = 0;
  bool tied_ = false;
  std::vector<double> frequencies_;
  std::vector<size_t> windows_;  // of every layer, 0 for none
};

}  // namespace turboquant
