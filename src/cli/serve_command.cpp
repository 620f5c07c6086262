#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <thread>

#include "cli/command.h"
#include "core/interrupt.h"
#include "io/files.h"
#include "serve/api_server.h"
#include "turboquant/language_model.h"

namespace turboquant {
namespace {

struct ServeState {
  std::string model, alias, key_file, chat_template;
  LoadOptions load;
  ServerOptions server;
  double request_seconds = 30;
};

// What clients call the model, without where it lies.
std::string served_name(const std::string& model) {
  if (!std::filesystem::exists(model)) return model;  // org/name of the hub
  return std::filesystem::weakly_canonical(model).filename().string();
}

void read_keys(const std::string& path, std::vector<std::string>& keys) {
  const std::string text = read_text(path);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    line.erase(line.find_last_not_of(" \t\r") + 1);
    if (!line.empty()) keys.push_back(line);
    begin = end + 1;
  }
  if (keys.empty()) throw Error(quote(path) + " has no keys: write one a line");
}

// The messages of all threads, one after the other.
void message_of_any_thread(const std::string& line) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  message(line);
}

void run(ServeState& state) {
  if (!state.key_file.empty()) read_keys(state.key_file, state.server.http.api_keys);
  LanguageModel model = LanguageModel::load(state.model, state.load);
  if (!state.chat_template.empty()) {
    std::optional<ChatTemplate>& chat = model.state().chat;
    chat.emplace(read_text(state.chat_template), chat ? chat->bos_token() : "", chat ? chat->eos_token() : "");
  }
  state.server.service.model_name = state.alias.empty() ? served_name(state.model) : state.alias;
  state.server.service.on_message = state.server.engine.on_message = message_of_any_thread;
  state.server.http.limits.request = std::chrono::milliseconds(static_cast<int64_t>(state.request_seconds * 1e3));
  ApiServer server(model, state.server);
  server.start();
  fmt::print("listening on {}\n", server.address());
  std::fflush(stdout);
  while (!interrupted()) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  message_of_any_thread("Shutting down: waiting for the requests that run");
  server.stop();
}

void add_size(CLI::App& command, const std::string& name, const std::string& help, std::function<void(uint64_t)> set) {
  command
      .add_option_function<std::string>(
          name, [name, set = std::move(set)](const std::string& text) { set(parse_size(name, text, 1)); }, help)
      ->type_name("SIZE");
}

void add_http_options(CLI::App& command, const std::shared_ptr<ServeState>& state) {
  HttpOptions& http = state->server.http;
  command.add_option("--host", http.host, "Address to listen on; 0.0.0.0: all of this machine")->capture_default_str();
  command.add_option("--port", http.port, "Port; 0: any that is free")
      ->capture_default_str()
      ->check(CLI::Range(0, 65535));
  command
      .add_option("--api-key", http.api_keys,
                  "A key that clients must send; may be repeated. Others can see it in the "
                  "list of processes: --api-key-file is safer")
      ->allow_extra_args(false);
  command.add_option("--api-key-file", state->key_file, "File with such keys, one a line");
  command.add_option("--cors", http.cors, "Origin whose pages may use the server, such as https://example.com; *: all");
  command.add_option("--max-connections", http.connections, "Connections at once")
      ->capture_default_str()
      ->check(CLI::Range(1, 8192));
  command.add_option("--timeout", state->request_seconds, "Seconds that a request may take to arrive")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 86400.0));
  add_size(command, "--max-body", "Size of a request at most; default: 16MiB",
           [state](uint64_t bytes) { state->server.http.limits.body_bytes = bytes; });
  command
      .add_option("--shutdown-timeout", state->server.shutdown_seconds,
                  "Seconds that running requests get to end after SIGTERM or Ctrl-C")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0));
}

void add_engine_options(CLI::App& command, const std::shared_ptr<ServeState>& state) {
  EngineOptions& engine = state->server.engine;
  command.add_option("--parallel", engine.parallel, "Requests that are answered at once")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  command.add_option("--queue", engine.queue, "Requests that may wait; more are answered with 429")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 20));
  add_size(command, "--kv-memory", "Memory of all keys and values at most; default: a quarter of the machine's",
           [state](uint64_t bytes) { state->server.engine.kv_memory = bytes; });
  command.add_option("--prompt-cache-dir", engine.prompt_cache_dir,
                     "Folder where what prompts begin with is kept until the next start");
  command.add_flag_callback(
      "--no-prefix-cache", [&engine] { engine.prefix_cache = false; },
      "Read every prompt from its beginning, whatever is known of it");
}

}  // namespace

void add_serve(CLI::App& app) {
  CLI::App* command = app.add_subcommand("serve", "Answer requests over HTTP, with OpenAI's API");
  auto state = std::make_shared<ServeState>();
  add_model_option(*command, state->model, state->load.revision, "--model,-m,--hf-path");
  command->add_option("--alias,-a", state->alias, "What clients call the model; default: the name of its folder");
  add_http_options(*command, state);
  add_engine_options(*command, state);
  command
      ->add_option("--predict,-n", state->server.service.most_tokens,
                   "Most tokens of an answer; -1: what the context has room for")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{-1}, int64_t{1} << 30));
  command->add_option("--chat-template-file", state->chat_template, "Jinja template instead of the model's");
  add_cache_dtype_option(*command, state->load.kv);
  add_kv_options(*command, state->load.kv);
  command->add_flag("--log-prompts", state->server.service.log_prompts, "Write what is asked into the log");
  command->add_flag("--exact", state->load.exact, "fp32 activations instead of int8: slower");
  add_threads_option(*command, state->load.threads);
  add_memory_options(*command, state->load.preload, state->load.lock);
  add_repack_option(*command, state->load.repack);
  command->footer(
      "Examples:\n  turboquant serve --model SmolLM2-4bit\n"
      "  turboquant serve --model SmolLM2-4bit --host 0.0.0.0 --api-key-file keys --kv-bits k4v3 --parallel 16");
  command->callback([=] {
    state->load.on_message = message;
    run(*state);
  });
}

}  // namespace turboquant
