#include "serve/generation.h"

#include <condition_variable>
#include <deque>
#include <mutex>

#include "core/clock.h"
#include "generate/stop.h"

namespace turboquant {
namespace {

// How often a request looks whether its client is still there.
constexpr std::chrono::milliseconds kLook{20};

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

ApiError shutting_down() { return {503, "the server is shutting down", "", "shutting_down"}; }

// One choice on the engine's side.
struct Writer {
  StreamingDetokenizer detokenizer;
  StopStrings stop;
  Clock::time_point last = Clock::now();
  bool first = true;
};

}  // namespace

// Between the engine's thread, which never waits for a client, and the thread of the connection.
struct Generation::Channel {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<GenerationEvent> events;

  void add(GenerationEvent event) {
    {
      const std::lock_guard lock(mutex);
      events.push_back(std::move(event));
    }
    changed.notify_one();
  }

  std::optional<GenerationEvent> take(std::chrono::milliseconds time) {
    std::unique_lock lock(mutex);
    if (!changed.wait_for(lock, time, [this] { return !events.empty(); })) return std::nullopt;
    GenerationEvent event = std::move(events.front());
    events.pop_front();
    return event;
  }
};

Generation::Generation(Service& service, const GenerationRequest& request)
    : service_(service),
      channel_(std::make_shared<Channel>()),
      prompt_tokens_(static_cast<int64_t>(request.prompt.size())) {
  try {
    for (int choice = 0; choice < request.choices; ++choice) submit(request, choice);
  } catch (...) {
    cancel();
    throw;
  }
}

Generation::~Generation() { cancel(); }

void Generation::cancel() {
  if (running_ == 0) return;
  for (const uint64_t id : ids_) service_.engine().cancel(id);
}

void Generation::submit(const GenerationRequest& request, int choice) {
  auto writer = std::make_shared<Writer>(
      Writer{StreamingDetokenizer(service_.tokenizer(), !request.show_special), StopStrings(request.stop)});
  EngineRequest job;
  job.prompt = request.prompt;
  job.sampling = request.sampling;
  if (job.sampling.seed) *job.sampling.seed += static_cast<uint64_t>(choice);
  job.max_tokens = request.max_tokens;
  job.logprobs = request.logprobs;
  job.ignore_end = request.ignore_end;
  job.client = request.client;
  if (request.constraint) job.constraint = request.constraint();
  job.on_token = [writer, choice, wanted = request.logprobs >= 0, channel = channel_,
                  &service = service_](const EngineToken& token) {
    const auto now = Clock::now();
    if (writer->first) {
      service.metrics().add_first_token(seconds_between(writer->last, now));
    } else {
      service.metrics().add_next_token(seconds_between(writer->last, now));
    }
    writer->first = false;
    writer->last = now;
    GenerationEvent event;
    event.choice = choice;
    event.text = writer->stop.add(writer->detokenizer.add(token.token));
    if (wanted) {
      const Tokenizer& tokenizer = service.tokenizer();
      event.token = TokenText{tokenizer.token_bytes(token.token), token.logprob, {}};
      for (const TokenLogprob& other : token.top)
        event.token->top.emplace_back(tokenizer.token_bytes(other.token), other.logprob);
    }
    channel->add(std::move(event));
    return !writer->stop.found();
  };
  job.on_finish = [writer, choice, channel = channel_](const EngineResult& result) {
    GenerationEvent event;
    event.choice = choice;
    event.text = writer->stop.add(writer->detokenizer.finish());
    event.text += writer->stop.finish();
    event.result = result;
    if (writer->stop.found()) event.result->finish = Finish::stop;
    channel->add(std::move(event));
  };
  try {
    ids_.push_back(service_.engine().submit(std::move(job)));
  } catch (const QueueFull&) {
    throw;
  } catch (const Error& error) {
    // Neither names anything but sizes.
    if (service_.closed()) throw shutting_down();
    throw bad_request(error.what());
  }
  ++running_;
}

std::optional<GenerationEvent> Generation::next(const Connection& connection) {
  while (running_ > 0) {
    if (const auto now = Clock::now(); now - last_look_ >= kLook) {
      last_look_ = now;
      if (connection.closed()) {
        service_.metrics().add_disconnect();
        throw ClientGone();
      }
      if (service_.aborted()) cancel();  // what has ended by itself is still told
    }
    std::optional<GenerationEvent> event = channel_->take(kLook);
    if (!event) continue;
    if (event->result) {
      --running_;
      if (event->result->finish == Finish::cancelled) throw shutting_down();
      if (event->result->finish == Finish::error) throw Error(event->result->error);
      cached_tokens_ += event->choice == 0 ? event->result->cached_tokens : 0;
      completion_tokens_ += event->result->completion_tokens;
    }
    return event;
  }
  return std::nullopt;
}

const char* finish_reason(const EngineResult& result) { return result.finish == Finish::length ? "length" : "stop"; }

}  // namespace turboquant
