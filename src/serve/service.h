// What all endpoints use: the model, its engine, its tokenizer, and how its chats look.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "generate/engine.h"
#include "generate/state.h"
#include "serve/chat_format.h"
#include "serve/metrics.h"
#include "text/grammar.h"
#include "turboquant/language_model.h"

namespace turboquant {

struct ServiceOptions {
  std::string model_name;    // what clients call the model
  int64_t most_tokens = -1;  // of an answer; -1: what the context has room for
  bool log_prompts = false;  // what requests ask and what they get goes into the log
  std::function<void(const std::string&)> on_message;
};

class Service {
 public:
  Service(LanguageModel& model, Engine& engine, ServiceOptions options);

  Engine& engine() { return engine_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  const ChatTemplate* chat_template() const { return chat_; }
  const ChatFormat& format() const { return format_; }
  const ServiceOptions& options() const { return options_; }
  Metrics& metrics() { return metrics_; }
  int64_t vocab_size() const { return vocab_size_; }
  int64_t max_context() const { return max_context_; }
  int64_t created() const { return created_; }
  int64_t parameter_count() const { return parameters_; }
  void message(const std::string& line) const;

  /// Made when the first request wants a grammar.
  const GrammarVocabulary& grammar_vocabulary();
  /// ApiError 404 unless it is this model's name, or none was given.
  void check_model(const std::optional<std::string>& name) const;
  /// ApiError 400 for a prompt that is empty or leaves no room; the tokens that an answer may have.
  int answer_length(size_t prompt_tokens, std::optional<int64_t> wanted, int64_t usual) const;

  /// The engine takes no requests any more.
  void close() { closed_ = true; }
  bool closed() const { return closed_; }
  /// Requests that still run end with an error.
  void abort() { aborted_ = true; }
  bool aborted() const { return aborted_; }

 private:
  LanguageModel& model_;
  Engine& engine_;
  ServiceOptions options_;
  const Tokenizer& tokenizer_;
  const ChatTemplate* chat_;
  ChatFormat format_;
  int64_t vocab_size_, max_context_, created_, parameters_;
  Metrics metrics_;
  std::once_flag grammar_once_;
  std::unique_ptr<GrammarVocabulary> grammar_;
  std::atomic<bool> closed_{false}, aborted_{false};
};

/// `prefix` and 24 random letters and digits.
std::string new_id(const std::string& prefix);
int64_t unix_time();

}  // namespace turboquant
