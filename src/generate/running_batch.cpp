#include "generate/running_batch.h"

#include <algorithm>
#include <numeric>

#include "core/memory.h"

namespace turboquant {
namespace {

constexpr int64_t kHeadroom = 64;  // tokens of an answer for which there must be memory before it is begun

uint64_t limit_of(uint64_t wanted) {
  constexpr uint64_t kUnknown = uint64_t{4} << 30;
  if (wanted > 0) return wanted;
  const uint64_t total = machine_memory().total;
  return total > 0 ? total / 4 : kUnknown;
}

std::string message_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::bad_alloc&) {
    return "out of memory";
  } catch (const std::exception& known) {
    return known.what();
  } catch (...) {
    return "unknown error";
  }
}

}  // namespace

RunningBatch::RunningBatch(std::shared_ptr<LanguageModel::State> model, const EngineOptions& options,
                           EngineStatistics& totals)
    : model_(std::move(model)),
      totals_(totals),
      rules_(model_),
      use_prefixes_(options.prefix_cache),
      prefixes_([this](const Cache& cache, int64_t length) { return rules_.fits(cache, length); }),
      memory_(limit_of(options.kv_memory), prefixes_,
              [this] {
                double bytes = prefixes_.bytes();
                for (const auto& sequence : running_) bytes += sequence->cache.footprint().share;
                if (embedding_ != nullptr && embedding_->cache) bytes += embedding_->cache->footprint().share;
                return bytes;
              }),
      budget_(options.prefill_chunk) {
  totals_.kv_limit = memory_.limit();
}

bool RunningBatch::add(std::unique_ptr<Sequence>& sequence) {
  if (std::any_of(running_.begin(), running_.end(), [](const auto& other) { return other->parked; })) return false;
  const std::span<const int32_t> findable = sequence->findable();
  int64_t shared = use_prefixes_ ? prefixes_.find(findable).length : 0;
  if (use_prefixes_)
    for (const auto& other : running_) shared = std::max(shared, common_tokens(findable, other->text));
  const int64_t most = std::min(sequence->length() + std::min<int64_t>(sequence->request.max_tokens, kHeadroom),
                                model_->model->info().max_context);
  if (!memory_.make_room(rules_.bytes(most) - std::min(rules_.bytes(most), rules_.bytes(shared)),
                         totals_.prefixes_evicted) &&
      !running_.empty())
    return false;
  sequence->started = Clock::now();
  sequence->cache = rules_.empty();
  running_.push_back(std::move(sequence));
  return true;
}

void RunningBatch::park(Sequence& sequence) {
  sequence.cache = rules_.empty();
  sequence.begun = false;
  sequence.parked = true;
  ++totals_.preempted;
}

void RunningBatch::unpark() {
  for (const auto& sequence : running_) {
    if (!sequence->parked) continue;
    const bool alone = std::all_of(running_.begin(), running_.end(),
                                   [&](const auto& other) { return other->parked || other.get() == sequence.get(); });
    if (!memory_.make_room(rules_.bytes(sequence->length() + kHeadroom), totals_.prefixes_evicted) && !alone) return;
    sequence->parked = false;
  }
}

// Tokens that a sequence may read before its cache has to be looked at.
int64_t RunningBatch::room_to_cut(const Sequence& sequence) const {
  int64_t end = sequence.length();
  const int64_t length = sequence.cache.length();
  if (const auto cut = sequence.cuts.upper_bound(length); cut != sequence.cuts.end()) end = std::min(end, *cut);
  const int64_t compress_at = rules_.compress_at(sequence.prompt_tokens());
  if (rules_.to_be_compressed(sequence.cache) && compress_at > length) end = std::min(end, compress_at);
  return end - length;
}

// Half of the budget goes to the one that came first, so that none waits for ever; the rest to those that need least: a
// short prompt does not wait for a long one, and the sooner a request decodes, the fuller is the batch.
void RunningBatch::share_out(int64_t budget, const std::vector<Sequence*>& readers, std::vector<Part>& parts) const {
  std::vector<int64_t> share(readers.size());
  const auto give = [&](size_t i, int64_t most) {
    const int64_t more = std::min({most, budget, room_to_cut(*readers[i]) - share[i]});
    share[i] += more;
    budget -= more;
  };
  if (readers.empty()) return;
  give(0, (budget + 1) / 2);
  std::vector<size_t> order(readers.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return readers[a]->pending() < readers[b]->pending(); });
  for (const size_t i : order) give(i, budget);
  for (size_t i = 0; i < readers.size(); ++i)
    if (share[i] > 0) parts.push_back({readers[i], share[i], share[i] == readers[i]->pending()});
}

std::vector<RunningBatch::Part> RunningBatch::plan() {
  unpark();
  std::vector<Part> parts;
  std::vector<Sequence*> readers;
  for (const auto& sequence : running_) {
    if (sequence->parked || !begin(*sequence)) continue;
    if (sequence->suspect) {  // by itself
      parts.clear();
      readers = {sequence.get()};
      break;
    }
    if (sequence->decoding())
      parts.push_back({sequence.get(), 1, true});
    else
      readers.push_back(sequence.get());
  }
  share_out(budget_.tokens(!parts.empty()), readers, parts);
  return parts;
}

// Where prefixes are not enough, the youngest requests give back their memory, and read their text again later.
bool RunningBatch::make_room(std::vector<Part>& parts) {
  while (!parts.empty()) {
    uint64_t growth = 0;
    for (const Part& part : parts) {
      const int64_t length = part.sequence->cache.length();
      growth += rules_.bytes(length + part.count) - std::min(rules_.bytes(length), rules_.bytes(length + part.count));
    }
    if (memory_.make_room(growth, totals_.prefixes_evicted)) {
      memory_.add(growth);
      return true;
    }
    const auto has_memory = [&](const auto& sequence) {
      return sequence->cache.length() > 0 ||
             std::any_of(parts.begin(), parts.end(), [&](const Part& part) { return part.sequence == sequence.get(); });
    };
    Sequence& youngest = **std::find_if(running_.rbegin(), running_.rend(), has_memory);
    if (std::count_if(running_.begin(), running_.end(), has_memory) == 1) {
      // Alone, and all of the memory is not enough.
      if (embedding_ == nullptr) remove(youngest, Finish::length);
      return false;
    }
    std::erase_if(parts, [&](const Part& part) { return part.sequence == &youngest; });
    park(youngest);
  }
  return false;
}

// Null if the step failed: then each of its requests goes back to its start and runs alone, which tells whose fault it
// was. A second failure is its end.
std::optional<Tensor> RunningBatch::forward(const std::vector<Part>& parts) {
  std::vector<SequenceTokens> batch;
  for (const Part& part : parts) {
    const std::span<const int32_t> rest =
        std::span(part.sequence->text).subspan(static_cast<size_t>(part.sequence->cache.length()));
    batch.push_back({&part.sequence->cache, rest.first(static_cast<size_t>(part.count)),
                     part.wants_logits ? part.count - 1 : part.count});
  }
  try {
    return model_->model->forward(batch);
  } catch (...) {
    const std::string message = message_of(std::current_exception());
    for (const Part& part : parts) {
      part.sequence->cache = rules_.empty();
      part.sequence->begun = false;
      if (part.sequence->suspect)
        remove(*part.sequence, Finish::error, message);
      else
        part.sequence->suspect = true;
    }
    return std::nullopt;
  }
}

void RunningBatch::choose(const Tensor& logits, const std::vector<Part>& parts) {
  std::vector<Sequence*> choosing;
  for (const Part& part : parts)
    if (part.wants_logits && part.sequence->request.max_tokens > 0) choosing.push_back(part.sequence);
  std::vector<const float*> rows;
  const int64_t vocab = model_->model->info().vocab_size;
  const auto* next = logits.data<float>();
  for (const Part& part : parts) {
    if (!part.wants_logits) continue;
    if (part.sequence->request.max_tokens > 0) rows.push_back(next);
    next += vocab;
  }
  model_->pool->parallel_for(static_cast<int64_t>(choosing.size()), 1, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i)
      choosing[i]->choose({rows[i], static_cast<size_t>(vocab)});
  });
}

void RunningBatch::step() {
  const auto start = Clock::now();
  std::vector<Part> parts = plan();
  if (!make_room(parts)) return;
  const std::optional<Tensor> logits = forward(parts);
  if (!logits) return;
  choose(*logits, parts);
  int64_t tokens = 0;
  for (const Part& part : parts) {
    Sequence& sequence = *part.sequence;
    tokens += part.count;
    if (part.count > 1 || sequence.result.completion_tokens == 0) totals_.prompt_tokens += part.count;
    if (sequence.cache.length() <= sequence.prompt_tokens()) keep_at_cuts(sequence);
    if (part.wants_logits) sequence.suspect = false;
    if (rules_.to_be_compressed(sequence.cache) &&
        sequence.cache.length() >= rules_.compress_at(sequence.prompt_tokens()))
      rules_.compress(sequence.cache);
    if (!part.wants_logits) continue;
    if (sequence.request.max_tokens == 0) {
      remove(sequence, Finish::length);
      continue;
    }
    const int64_t before = sequence.result.completion_tokens;
    try {
      const bool done = sequence.deliver(model_->end_tokens, model_->model->info().max_context);
      totals_.generated_tokens += sequence.result.completion_tokens - before;
      if (done) remove(sequence, sequence.result.finish);
    } catch (...) {
      remove(sequence, Finish::error, message_of(std::current_exception()));
    }
  }
  const double seconds = seconds_since(start);
  budget_.measured(tokens, seconds);
  totals_.busy_seconds += seconds;
  ++totals_.steps;
}

bool RunningBatch::step(Embedding& embedding) {
  embedding_ = nullptr;  // should it fail
  Model& model = *model_->model;
  if (!embedding.cache) {
    const auto length = static_cast<int64_t>(embedding.tokens.size());
    if (!memory_.make_room(rules_.bytes(length), totals_.prefixes_evicted)) {
      if (!empty()) return false;
      throw Error("the text needs more memory for keys and values than there is; shorten it");
    }
    memory_.add(rules_.bytes(length));
    embedding.cache = rules_.empty();
    embedding.sum.assign(static_cast<size_t>(model.info().hidden_size), 0.0);
  }
  const std::span<const int32_t> rest =
      std::span(embedding.tokens).subspan(static_cast<size_t>(embedding.cache->length()));
  const auto count = std::min(rest.size(), static_cast<size_t>(budget_.tokens(!empty())));
  const SequenceTokens part{&*embedding.cache, rest.first(count)};
  const Tensor hidden = model.hidden({&part, 1});
  const auto* values = hidden.data<float>();
  for (int64_t i = 0; i < hidden.elements(); ++i)
    embedding.sum[static_cast<size_t>(i) % embedding.sum.size()] += values[i];
  totals_.prompt_tokens += static_cast<int64_t>(count);
  if (count == rest.size()) return true;
  embedding_ = &embedding;
  return false;
}

void RunningBatch::finish(Sequence& sequence, Finish how, const std::string& error) {
  switch (how) {
    case Finish::stop:
      ++totals_.stopped;
      break;
    case Finish::length:
      ++totals_.full_length;
      break;
    case Finish::cancelled:
      ++totals_.cancelled;
      break;
    case Finish::error:
      ++totals_.failed;
      break;
  }
  totals_.cached_tokens += sequence.result.cached_tokens;
  if (sequence.started != Clock::time_point()) {
    const double seconds = seconds_since(sequence.started);
    service_seconds_ = service_seconds_ == 0 ? seconds : 0.8 * service_seconds_ + 0.2 * seconds;
  }
  sequence.finish(how, error);
}

// What it has read may serve others.
void RunningBatch::remove(Sequence& sequence, Finish how, const std::string& error) {
  const auto place =
      std::find_if(running_.begin(), running_.end(), [&](const auto& other) { return other.get() == &sequence; });
  const std::unique_ptr<Sequence> ended = std::move(*place);
  running_.erase(place);
  const auto read = static_cast<size_t>(ended->cache.length());
  if (use_prefixes_ && read > 0) prefixes_.insert(std::span(ended->text).first(read), std::move(ended->cache));
  memory_.refresh();
  memory_.make_room(0, totals_.prefixes_evicted);
  finish(*ended, how, error);
}

void RunningBatch::cancel(const std::vector<uint64_t>& ids) {
  for (const uint64_t id : ids) {
    const auto found = std::find_if(running_.begin(), running_.end(), [&](const auto& s) { return s->id == id; });
    if (found != running_.end()) remove(**found, Finish::cancelled);
  }
}

void RunningBatch::end_all(Finish how, const std::string& error) {
  while (!running_.empty()) remove(*running_.back(), how, error);
}

void RunningBatch::count_memory() {
  totals_.running = static_cast<int64_t>(running_.size());
  totals_.prefixes = static_cast<int64_t>(prefixes_.size());
  totals_.kv_bytes = memory_.used();
}

}  // namespace turboquant
