// How near compressed keys and values are to the exact ones.
#pragma once

#include "models/model.h"

namespace turboquant {

/// Mean cosines between the vectors of a head before and after.
struct KvCosine {
  double keys = 1, values = 1;              // of all that compressed layers remember, exact tokens too
  double coded_keys = 1, coded_values = 1;  // of those that compression changed
};

/// Of what a cache that is not compressed remembers, compressed with `options`.
KvCosine kv_cosine(Ops& ops, const Cache& exact, const CacheOptions& options);

}  // namespace turboquant
