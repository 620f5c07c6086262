#include "nn/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "io/config.h"
#include "io/files.h"

namespace turboquant {
namespace {

// Llama 3.1: long wavelengths are stretched by `factor`, short ones stay, those between are blended.
class Llama3Scaling {
 public:
  Llama3Scaling(const nlohmann::json& scaling, const std::string& where)
      : factor_(config_positive(scaling, where, "factor")),
        low_(config_positive(scaling, where, "low_freq_factor")),
        high_(config_positive(scaling, where, "high_freq_factor")),
        context_(config_positive(scaling, where, "original_max_position_embeddings")) {
    if (low_ >= high_) throw Error(where + ": config.json: 'low_freq_factor' must be below 'high_freq_factor'");
  }

  double operator()(double frequency) const {
    const double wavelength = 2 * std::numbers::pi / frequency;
    if (wavelength < context_ / high_) return frequency;
    if (wavelength > context_ / low_) return frequency / factor_;
    const double smooth = (context_ / wavelength - low_) / (high_ - low_);
    return (1 - smooth) * frequency / factor_ + smooth * frequency;
  }

 private:
  double factor_, low_, high_, context_;
};

// YaRN (Peng et al. 2023, https://arxiv.org/abs/2309.00071): pairs that turn often within the original context keep
// their frequency, those that turn rarely are slowed down by `factor`, with a linear ramp between; cosines and sines
// grow by a factor of their own.
class YarnScaling {
 public:
  YarnScaling(const nlohmann::json& scaling, const nlohmann::json& config, const std::string& where, double theta,
              int64_t head_dim)
      : factor_(config_positive(scaling, where, "factor")) {
    const double context =
        config_positive(scaling, where, "original_max_position_embeddings",
                        static_cast<double>(config_integer_or(config, where, "max_position_embeddings", 2048)));
    // The index of the pair that turns so often within the context.
    const auto pair = [&](const char* key, double otherwise) {
      return static_cast<double>(head_dim) *
             std::log(context / (config_positive(scaling, where, key, otherwise) * 2 * std::numbers::pi)) /
             (2 * std::log(theta));
    };
    low_ = pair("beta_fast", 32);
    high_ = pair("beta_slow", 1);
    if (config_bool_or(scaling, where, "truncate", true)) {
      low_ = std::floor(low_);
      high_ = std::ceil(high_);
    }
    low_ = std::max(low_, 0.0);
    high_ = std::min(high_, static_cast<double>(head_dim - 1));
    if (low_ == high_) high_ += 0.001;
    double attention = growth(1);
    const bool has_all = scaling.contains("mscale_all_dim") && scaling.at("mscale_all_dim").is_number();
    if (scaling.contains("mscale") && has_all && scaling.at("mscale") != 0 && scaling.at("mscale_all_dim") != 0)
      attention =
          growth(config_positive(scaling, where, "mscale")) / growth(config_positive(scaling, where, "mscale_all_dim"));
    attention_ = config_positive(scaling, where, "attention_factor", attention);
  }

  double operator()(double frequency, size_t pair) const {
    const double slowed = std::clamp((static_cast<double>(pair) - low_) / (high_ - low_), 0.0, 1.0);
    return frequency * (1 - slowed) + frequency / factor_ * slowed;
  }
  double attention() const { return attention_; }

 private:
  double growth(double scale) const { return factor_ <= 1 ? 1 : 0.1 * scale * std::log(factor_) + 1; }

  double factor_, low_ = 0, high_ = 0, attention_ = 1;
};

}  // namespace

Rope::Rope(const nlohmann::json& config, const std::string& where, int64_t head_dim) : head_dim_(head_dim) {
  nlohmann::json scaling = config_object(config, where, "rope_scaling");
  scaling.update(config_object(config, where, "rope_parameters"));
  const double theta =
      config_positive(scaling, where, "rope_theta", config_positive(config, where, "rope_theta", 10000));
  const std::string type =
      config_string_or(scaling, where, "rope_type", config_string_or(scaling, where, "type", "default"));
  const double part = config_positive(scaling, where, "partial_rotary_factor",
                                      config_positive(config, where, "partial_rotary_factor", 1));
  const double rotated = std::floor(static_cast<double>(head_dim) * part);
  if (part > 1 || rotated < 2 || std::fmod(rotated, 2) != 0)
    throw Error(where + ": config.json: 'partial_rotary_factor' " + std::to_string(part) + " of heads of " +
                std::to_string(head_dim) + " must leave an even number of values to rotate, from 2 to all");
  frequencies_.resize(static_cast<size_t>(rotated) / 2);
  for (size_t i = 0; i < frequencies_.size(); ++i)
    frequencies_[i] = std::pow(theta, -2.0 * static_cast<double>(i) / rotated);
  if (type == "linear") {
    const double factor = config_positive(scaling, where, "factor");
    for (double& frequency : frequencies_) frequency /= factor;
  } else if (type == "llama3") {
    const Llama3Scaling scaled(scaling, where);
    for (double& frequency : frequencies_) frequency = scaled(frequency);
  } else if (type == "yarn") {
    const YarnScaling scaled(scaling, config, where, theta, head_dim);
    for (size_t i = 0; i < frequencies_.size(); ++i) frequencies_[i] = scaled(frequencies_[i], i);
    amplitude_ = scaled.attention();
  } else if (type != "default") {
    throw Error(where + ": config.json: rope_scaling of type " + quote(type) +
                " is not supported; known are default, linear, llama3, yarn");
  }
}

void Rope::reserve(int64_t length) {
  const int64_t have = cos_ ? cos_.dim(0) : 0, half = static_cast<int64_t>(frequencies_.size());
  if (length <= have) return;
  length = std::max(length, std::max<int64_t>(256, 2 * have));
  Tensor cos = Tensor::zeros(DType::f32, {length, half}), sin = Tensor::zeros(DType::f32, {length, half});
  std::copy_n(cos_.data<float>(), have * half, cos.data<float>());
  std::copy_n(sin_.data<float>(), have * half, sin.data<float>());
  for (int64_t p = have; p < length; ++p)
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * frequencies_[static_cast<size_t>(i)];
      cos.data<float>()[p * half + i] = static_cast<float>(std::cos(angle) * amplitude_);
      sin.data<float>()[p * half + i] = static_cast<float>(std::sin(angle) * amplitude_);
    }
  cos_ = cos;
  sin_ = sin;
}

}  // namespace turboquant
