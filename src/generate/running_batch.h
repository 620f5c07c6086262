// The requests that run, step by step: which tokens of which of them a step reads, and where the memory of their caches
// comes from. Belongs to an engine's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "generate/kv_memory.h"
#include "generate/kv_rules.h"
#include "generate/prefill_budget.h"
#include "generate/prefix_cache.h"
#include "generate/sequence.h"

namespace turboquant {

/// A text whose last hidden states are summed up, piece by piece.
struct Embedding {
  std::vector<int32_t> tokens;
  std::vector<double> sum;  // [hidden_size]
  std::optional<Cache> cache;
};

class RunningBatch {
 public:
  /// `totals`: counts what ends here.
  RunningBatch(std::shared_ptr<LanguageModel::State> model, const EngineOptions& options, EngineStatistics& totals);

  size_t size() const { return running_.size(); }
  bool empty() const { return running_.empty(); }
  /// Takes a request, unless there is no memory for it now.
  bool add(std::unique_ptr<Sequence>& sequence);
  /// Ends those with these ids.
  void cancel(const std::vector<uint64_t>& ids);
  void end_all(Finish how, const std::string& error = "");
  /// One forward pass for as many of them as can take part. Ends those that are done.
  void step();
  /// Reads the next piece of a text; true when it is done. Error: the memory will never do.
  bool step(Embedding& embedding);
  /// Ends one that is not in the batch, too.
  void finish(Sequence& sequence, Finish how, const std::string& error = "");

  const KvRules& rules() const { return rules_; }
  PrefixCache& prefixes() { return prefixes_; }
  uint64_t memory_limit() const { return memory_.limit(); }
  /// What caches take up, to `totals`.
  void count_memory();
  /// Mean seconds of a request from its start to its end, of the last ones; 0: none has ended.
  double service_seconds() const { return service_seconds_; }

 private:
  struct Part {
    Sequence* sequence = nullptr;
    int64_t count = 0;
    bool wants_logits = false;
  };

  bool begin(Sequence& sequence);
  const Sequence* leader_of(const Sequence& sequence, int64_t length) const;
  void make_cuts(Sequence& sequence, int64_t common) const;
  void unpark();
  void park(Sequence& sequence);
  std::vector<Part> plan();
  void share_out(int64_t budget, const std::vector<Sequence*>& readers, std::vector<Part>& parts) const;
  int64_t room_to_cut(const Sequence& sequence) const;
  bool make_room(std::vector<Part>& parts);
  std::optional<Tensor> forward(const std::vector<Part>& parts);
  void choose(const Tensor& logits, const std::vector<Part>& parts);
  void keep_at_cuts(Sequence& sequence);
  void remove(Sequence& sequence, Finish how, const std::string& error = "");

  std::shared_ptr<LanguageModel::State> model_;
  EngineStatistics& totals_;
  KvRules rules_;
  bool use_prefixes_;
  PrefixCache prefixes_;
  KvMemory memory_;
  PrefillBudget budget_;
  std::vector<std::unique_ptr<Sequence>> running_;  // the oldest first
  const Embedding* embedding_ = nullptr;            // the one that is being read
  double service_seconds_ = 0;
};

}  // namespace turboquant
