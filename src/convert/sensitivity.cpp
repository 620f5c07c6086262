#include "convert/sensitivity.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "nn/roles.h"

namespace turboquant {
namespace {

struct RoleLoss {
  std::string_view layer;  // last part of the module's name
  double loss;             // of all layers together, at 3 bits
};

// Measured on SmolLM2-135M. Linear attention, which it does not have, by what its matrices correspond to: in_proj_qkv
// is q, k and v in one, out_proj is o; z gates; a and b are a few rows that steer the state.
constexpr double kQ = 0.036, kK = 0.028, kV = 0.187, kO = 0.037, kGate = 0.057, kUp = 0.097, kDown = 0.257;
constexpr std::array kRoleLosses = {
    RoleLoss{"q_proj", kQ},       RoleLoss{"k_proj", kK},
    RoleLoss{"v_proj", kV},       RoleLoss{"o_proj", kO},
    RoleLoss{"gate_proj", kGate}, RoleLoss{"up_proj", kUp},
    RoleLoss{"down_proj", kDown}, RoleLoss{"in_proj_qkv", kQ + kK + kV},
    RoleLoss{"in_proj_z", kGate}, RoleLoss{"in_proj_a", kV},
    RoleLoss{"in_proj_b", kV},    RoleLoss{"out_proj", kO},
};

// Of embedding and head as one matrix, and apart.
constexpr double kTied = 0.165, kEmbedding = 0.08, kHead = 0.08;

// What a layer loses beside the mean of all, by its place: the first, the thirds between, the last.
constexpr double kFirst = 1.14, kLast = 2.85;
constexpr std::array kThirds = {0.88, 1.28, 0.59};

double place_factor(int64_t layer, int64_t n_layers) {
  if (layer <= 0) return kFirst;
  if (layer >= n_layers - 1) return kLast;
  return kThirds[static_cast<size_t>(3 * layer / n_layers)];
}

}  // namespace

double squared_error(int bits) {
  switch (bits) {
    case 2:
      return 0.0666;
    case 3:
      return 0.0160;
    case 4:
      return 0.00398;
    case 8:
      return 0.00005;
    default:
      return 0;
  }
}

int64_t layer_number(std::string_view name) {
  constexpr std::string_view kLayers = ".layers.";
  const size_t at = name.find(kLayers);
  int64_t layer = -1;
  if (at != name.npos) std::from_chars(name.data() + at + kLayers.size(), name.data() + name.size(), layer);
  return layer;
}

double prior_loss(std::string_view module, int64_t n_layers, bool tied) {
  const Role role = role_of(std::string(module) + ".weight");
  if (role == Role::embedding) return tied ? kTied : kEmbedding;
  if (role == Role::head) return kHead;
  const int64_t layers = std::max<int64_t>(n_layers, 1);
  const auto found = std::find_if(kRoleLosses.begin(), kRoleLosses.end(), [&](const RoleLoss& row) {
    return row.layer == module.substr(module.rfind('.') + 1);
  });
  const double loss = found == kRoleLosses.end() ? 0 : found->loss;
  return loss / static_cast<double>(layers) * place_factor(layer_number(module), layers);
}

}  // namespace turboquant
