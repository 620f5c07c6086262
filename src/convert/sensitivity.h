// What fewer bits cost a model, as far as it can be told without measuring: the error of a format's bits times the
// weight of a matrix's role and place.
#pragma once

#include <cstdint>
#include <string_view>

namespace turboquant {

/// The relative squared error of Gaussian weights in TCQ16 of 2, 3 or 4 bits, and in int8 rows (8); 0 for 16.
double squared_error(int bits);

/// 7 of "model.layers.7.mlp.up_proj"; -1 if the name is of no layer.
int64_t layer_number(std::string_view name);

/// What a module, or the experts' stack of a layer, costs if it alone has 3 bits in TCQ16: the KL divergence a token to
/// the plain model, in nats, as SmolLM2-135M showed it (docs/precision.md has the table and how it was measured). Of a
/// model of `n_layers` layers. The same whatever the size of the matrix: what counts is the relative error of its
/// product. `tied`: the embedding is the head, too.
double prior_loss(std::string_view module, int64_t n_layers, bool tied);

/// The same at other bits: losses follow the squared error.
inline double loss_at(double loss_of_3_bits, int bits) {
  return loss_of_3_bits * squared_error(bits) / squared_error(3);
}

}  // namespace turboquant
