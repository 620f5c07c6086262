// Random numbers that are the same on every machine: threefry-2x32, as JAX and MLX use it, so that the original's signs
// can be reproduced (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace turboquant {

/// n words, as mx.random.bits(key=mx.random.key(seed)) gives them; word i depends on n, too.
std::vector<uint32_t> random_bits(uint64_t seed, int64_t n);

/// n values in [0, 1), as mx.random.uniform gives them.
std::vector<float> random_uniform(uint64_t seed, int64_t n);

/// n values of the standard normal distribution (Box-Muller on random_bits).
std::vector<float> random_normal(uint64_t seed, int64_t n);

/// CPython's hash(str) modulo 2^31, as Python 3.11 and later compute it with PYTHONHASHSEED=`hash_seed` (SipHash-1-3; a
/// seed of 0 is a key of 0): the original derives a layer's seed from its path in this way. `path` is ASCII.
uint64_t path_hash(std::string_view path, uint32_t hash_seed = 0);

}  // namespace turboquant
