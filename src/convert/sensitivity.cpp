#include "convert/sensitivity.h"

namespace turboquant {

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

double prior_loss(std::string_view module, int64_t n_layers, bool tied) {
  (void)module, (void)n_layers, (void)tied;
  return 1;
}

}  // namespace turboquant
