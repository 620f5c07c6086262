// How near compressed keys and values are to the exact ones.
#pragma once

#include "models/model.h"

namespace turboquant {

/// Mean cosines between vectors of a head before and after, over all that compression changed; 1 if it changed none.
struct KvCosine {
  double keys = 1, values = 1;
};

/// Of what a cache that is not compressed remembers, compressed with `options`.
KvCosine kv_cosine(Ops& ops, const Cache& exact, const CacheOptions& options);

}  // namespace turboquant
