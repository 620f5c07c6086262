#include "convert/input_gain.h"

#include <algorithm>
#include <set>
#include <utility>

#include "convert/layer_stream.h"
#include "core/interrupt.h"
#include "models/model.h"
#include "nn/roles.h"
#include "quant/hessian.h"

namespace turboquant {
namespace {

using Sites = std::map<const void*, std::string>;  // of matrices, by their weights

Sites sites_of_layer(const LayerStream& stream, const std::vector<Conversion::Matrix>& matrices, int64_t layer) {
  Sites sites;
  for (const Conversion::Matrix& matrix : matrices)
    if (matrix.role == Role::linear && matrix.tensor.starts_with(layer_prefix(layer)))
      sites[stream.weights(matrix.module + ".weight")] = matrix.site;
  return sites;
}

}  // namespace

std::map<std::string, double> input_gains(const Checkpoint& precise, const Conversion& conversion,
                                          const TokenSequences& text, double damping,
                                          const std::shared_ptr<ThreadPool>& pool) {
  const std::vector<Conversion::Matrix> matrices = conversion.matrices();
  const bool experts = std::any_of(matrices.begin(), matrices.end(),
                                   [](const Conversion::Matrix& matrix) { return expert_number(matrix.module) >= 0; });
  LayerStream stream(precise, precise.config(), pool);
  stream.embed(text);
  std::map<std::string, double> gains;
  const int64_t layers = model_info(precise.config(), precise.path().string()).n_layers;
  for (int64_t layer = 0; layer < layers; ++layer) {
    const Sites sites = sites_of_layer(stream, matrices, layer);
    std::map<std::string, Hessian> hessians;
    const auto see = [&](std::span<const Product> products) {
      std::set<const Activations*> seen;
      for (const Product& product : products) {
        const auto site = sites.find(product.projection.weight->data.data<std::byte>());
        if (site == sites.end() || product.x->tokens == 0 || !seen.insert(product.x).second) continue;
        hessians.try_emplace(site->second, product.x->width)
            .first->second.add(product.x->x.data<float>(), product.x->tokens, *pool);
      }
      return false;
    };
    stream.load(layer, experts);
    for (size_t i = 0; i < text.size(); ++i) {
      check_interrupt();
      stream.run(i, text[i], see);
    }
    std::map<std::string, double> of_site;
    for (const auto& [site, hessian] : hessians) of_site[site] = factor(hessian, damping, *pool).gain;
    for (const Conversion::Matrix& matrix : matrices)
      if (const auto gain = of_site.find(matrix.site); gain != of_site.end())
        gains[expert_stack(matrix.module)] = gain->second;
  }
  return gains;
}

}  // namespace turboquant
