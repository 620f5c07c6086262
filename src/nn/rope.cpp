#include "nn/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace turboquant {
namespace {

// Llama 3.1: long wavelengths are stretched by `factor`, short ones stay, those between are blended.
double llama3_scaled(double frequency, const nlohmann::json& scaling) {
  const double factor = scaling.at("factor").get<double>();
  const double low = scaling.at("low_freq_factor").get<double>(), high = scaling.at("high_freq_factor").get<double>();
  const double context = scaling.at("original_max_position_embeddings").get<double>();
  const double wavelength = 2 * std::numbers::pi / frequency;
  if (wavelength < context / high) return frequency;
  if (wavelength > context / low) return frequency / factor;
  const double smooth = (context / wavelength - low) / (high - low);
  return (1 - smooth) * frequency / factor + smooth * frequency;
}

}  // namespace

Rope::Rope(const nlohmann::json& config, int64_t head_dim) : frequencies_(static_cast<size_t>(head_dim / 2)) {
  nlohmann::json scaling = nlohmann::json::object();
  for (const char* key : {"rope_scaling", "rope_parameters"})
    if (config.contains(key) && config.at(key).is_object()) scaling.update(config.at(key));
  const double theta = scaling.value("rope_theta", config.value("rope_theta", 10000.0));
  const std::string type = scaling.value("rope_type", scaling.value("type", std::string("default")));
  if (type != "default" && type != "linear" && type != "llama3")
    throw Error("config.json: rope_scaling of type '" + type + "' is not supported; known are default, linear, llama3");
  for (size_t i = 0; i < frequencies_.size(); ++i) {
    const double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    frequencies_[i] = type == "linear"   ? frequency / scaling.at("factor").get<double>()
                      : type == "llama3" ? llama3_scaled(frequency, scaling)
                                         : frequency;
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
      cos.data<float>()[p * half + i] = static_cast<float>(std::cos(angle));
      sin.data<float>()[p * half + i] = static_cast<float>(std::sin(angle));
    }
  cos_ = cos;
  sin_ = sin;
}

}  // namespace turboquant
