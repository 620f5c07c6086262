// What a model needs to run, from headers or config.json alone: weights at every precision, KV cache, workspace, and
// whether that fits a memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hub/hub.h"
#include "io/checkpoint.h"
#include "models/model.h"

namespace turboquant {

struct PlanOptions {
  int64_t context = 4096;           // tokens of each sequence
  std::vector<int64_t> kv_lengths;  // tokens of a sequence that the KV cache is counted at, too
  int64_t parallel = 1;             // sequences
  double bits = 0;  // of the weights: 2 to 8 after conversion, as in ConvertOptions; 16 as they are; 0: 3, or as they
                    // are if compressed
  uint64_t target_bytes = 0;          // the same, as in ConvertOptions; 0: `bits`
  int head_bits = 8;                  // of embedding and head after conversion
  std::vector<std::string> bits_for;  // of other matrices after conversion, as in ConvertOptions
  std::string preset;                 // the same
  CacheOptions kv;
  uint64_t ram = 0;  // bytes; 0: the memory of this machine
};

/// The weights at one precision.
struct WeightPlan {
  double bits = 0;  // 2 to 8: after conversion; 16: as they are; 0: of the size that was asked for
  uint64_t bytes = 0;
  double bits_per_weight = 0;
  std::string bits_for;  // a rule beside those of the options
};

/// Bytes of all sequences' keys and values after so many tokens each.
struct KvLength {
  int64_t context = 0;
  uint64_t fp16 = 0, compressed = 0;
};

struct Plan {
  std::string model, architecture;
  ModelInfo info;
  int64_t full_layers = 0, sliding_layers = 0, linear_layers = 0;  // by their kind of attention
  uint64_t parameters = 0, active_parameters = 0;                  // active: those that a token meets
  uint64_t size_on_disk = 0;
  bool compressed = false;          // the weights are TurboQuant's or MLX's already
  std::vector<WeightPlan> weights;  // as they are, then 4, 3, 2 bits; and what else was asked for
  WeightPlan chosen;
  std::vector<WeightPlan> lighter;  // than the chosen: what flags could choose, the least loss first
  PlanOptions options;              // bits and ram as they were chosen
  std::vector<std::pair<KvBits, uint64_t>> kv_choices;  // bytes of all sequences
  KvBits kv_compressed;                                 // of kv_lengths: as chosen, or 3 bits if fp16 was
  std::vector<KvLength> kv_lengths;                     // one for each of the options
  uint64_t kv = 0, state = 0, workspace = 0, total = 0;
  uint64_t available = 0;  // memory of this machine that is free now; 0 if --ram was given
  bool fits = false;
  bool runs_from_file = false;     // all but the weights fits: they are read from the file again and again
  std::vector<std::string> flags;  // that would make it fit, the least loss first; empty if it fits or nothing helps
};

/// Reads no weights. Of a model whose headers alone were fetched, checkpoint_of_headers() (io/checkpoint.h) makes the
/// checkpoint. Error: unknown architecture, no layer that can be compressed, heads that cannot be.
Plan make_plan(const Checkpoint& checkpoint, const PlanOptions& options);

/// What there is to plan for `model`: a model folder or .gguf file, a config.json or a folder that holds one and no
/// weights, a name of known_config(), or a repository of the hub, of which only headers are fetched. Error: none of
/// these.
std::unique_ptr<Checkpoint> open_for_plan(const std::string& model, const std::string& revision = "",
                                          const Say& say = {});

}  // namespace turboquant
