// Loading a model; its caches, logits and tokens.
#include <fmt/format.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <filesystem>

#include "python/bindings.h"

namespace turboquant::python {
namespace {

using Logits = nb::ndarray<nb::numpy, float>;
using Messages = std::function<void(const std::string&)>;

constexpr const char* kLoadDoc =
    "Loads a model: a Hugging Face folder, a folder that convert() wrote, a .gguf file, or org/name on the Hugging "
    "Face\n"
    "hub, which is downloaded. Weights stay in the mapped file.\n\n"
    "kv: how caches are made that are not made with others, such as \"k4v3\". threads: 0 is one a processor. exact: "
    "fp32\n"
    "activations instead of int8, for comparisons. revision: of a model on the hub. qjl: with the QJL residuals of\n"
    "turboquant-mlx's files. preload: read all weights into memory now; lock: and keep them there. repack: "
    "copy\n"
    "them into the order that this processor multiplies fastest, where that is another one and memory has room. "
    "on_message\n"
    "gets what there is to say of the files, line by line. Error: no model, or one that is damaged or not supported.";

constexpr const char* kForwardDoc =
    "Feeds tokens, one or more, to the model behind what the cache remembers, and returns logits as numpy float32: "
    "those\nbehind the last token, [vocab_size], or with `rows` those behind each of the last `rows` tokens, [rows, "
    "vocab_size].\nAn int32 array is read where it lies. Error: a token outside the vocabulary, a text longer than "
    "max_context, a cache\nof another model.";

// numpy owns the memory that the library has filled.
Logits to_numpy(std::vector<float> logits, std::optional<int64_t> rows) {
  auto owned = std::make_unique<std::vector<float>>(std::move(logits));
  float* data = owned->data();
  const size_t size = owned->size(), n = static_cast<size_t>(rows.value_or(1));
  const nb::capsule owner(owned.release(),
                          [](void* memory) noexcept { delete static_cast<std::vector<float>*>(memory); });
  if (!rows) return Logits(data, {size}, owner);
  return Logits(data, {n, size / n}, owner);
}

Logits forward(Model& self, Cache& cache, std::span<const int32_t> tokens, std::optional<int64_t> rows) {
  std::vector<float> logits =
      without_gil(self.lock, [&] { return self.model.forward(cache.cache, tokens, rows.value_or(1)); });
  return to_numpy(std::move(logits), rows);
}

Model load(const std::filesystem::path& path, const KvArgument& kv, int threads, bool exact,
           const std::string& revision, bool qjl, bool preload, bool lock, bool repack, const Messages& on_message,
           const Cancellation* cancellation) {
  LoadOptions options;
  options.kv = options_of(kv);
  options.threads = threads;
  options.exact = exact;
  options.revision = revision;
  options.qjl = qjl;
  options.preload = preload;
  options.lock = lock;
  options.repack = repack;
  options.on_message = on_message;
  return without_gil([&] { return Model{LanguageModel::load(path.string(), options)}; }, cancellation);
}

void bind_caches_of(nb::class_<Model>& model) {
  model
      .def(
          "make_cache",
          [](Model& self, const std::optional<KvArgument>& options) {
            return without_gil(self.lock, [&] {
              return Cache{options ? self.model.make_cache(options_of(*options)) : self.model.make_cache(), self.lock};
            });
          },
          nb::arg("kv") = nb::none(),
          "A new, empty KvCache; with the options of load() if none are given. UsageError: options that do not exist "
          "or "
          "do\nnot fit.")
      .def(
          "load_cache",
          [](Model& self, const std::filesystem::path& path) {
            return without_gil(self.lock, [&] { return Cache{self.model.load_cache(path.string()), self.lock}; });
          },
          nb::arg("path"),
          "A KvCache that KvCache.save() wrote; it goes on to the last bit as the saved one. Error: a damaged file, or "
          "one of\nanother model or of other settings than those of load().")
      .def(
          "forward",
          [](Model& self, Cache& cache, const TokenArray& tokens, std::optional<int64_t> rows) {
            return forward(self, cache, span_of(tokens), rows);
          },
          nb::arg("cache"), nb::arg("tokens").noconvert(), nb::arg("rows") = nb::none(), kForwardDoc)
      .def(
          "forward",
          [](Model& self, Cache& cache, const std::vector<int32_t>& tokens, std::optional<int64_t> rows) {
            return forward(self, cache, tokens, rows);
          },
          nb::arg("cache"), nb::arg("tokens"), nb::arg("rows") = nb::none());
}

void bind_text(nb::class_<Model>& model) {
  // These wait for no other call: the tokenizer may be used by several threads at once.
  model
      .def(
          "encode",
          [](Model& self, const std::string& text, bool add_special) {
            return without_gil([&] { return self.model.encode(text, add_special); });
          },
          nb::arg("text"), nb::arg("add_special") = true,
          "Token ids of a text; with `add_special` the tokenizer adds its begin and end tokens, where it has any.")
      .def(
          "decode",
          [](Model& self, const std::vector<int32_t>& tokens, bool skip_special) {
            return without_gil([&] { return self.model.decode(tokens, skip_special); });
          },
          nb::arg("tokens"), nb::arg("skip_special") = true, "The text of token ids.")
      .def(
          "render_chat",
          [](Model& self, const std::string& messages, bool add_generation_prompt) {
            return without_gil([&] { return self.model.apply_chat_template(messages, add_generation_prompt); });
          },
          nb::arg("messages"), nb::arg("add_generation_prompt") = true,
          "As turboquant.apply_chat_template(), from messages as JSON text.");
}

}  // namespace

void bind_model(nb::module_& module) {
  nb::class_<Model> model(module, "LanguageModel",
                          "A model with its tokenizer, made by load(). Its methods may be called by several threads: "
                          "one works, the others wait.");
  model
      .def_prop_ro(
          "vocab_size", [](Model& self) { return self.model.vocab_size(); }, "Logits of a token.")
      .def_prop_ro(
          "max_context", [](Model& self) { return self.model.max_context(); }, "Tokens that a text may have.")
      .def_prop_ro(
          "has_chat_template", [](Model& self) { return self.model.has_chat_template(); },
          "Whether prompts are wrapped in a chat template.")
      .def_prop_ro(
          "chat_template", [](Model& self) { return self.model.chat_template(); },
          "The Jinja source of the chat template; empty: none.")
      .def_prop_ro(
          "begin_token", [](Model& self) { return self.model.begin_token(); },
          "The id that texts begin with, by config.json; None if it names none.")
      .def_prop_ro(
          "end_tokens", [](Model& self) { return self.model.end_tokens(); }, "The ids that end an answer.");
  bind_caches_of(model);
  bind_text(model);
  bind_generation(module, model);
  module.def("load", &load, nb::arg("path"), nb::kw_only(), nb::arg("kv") = "fp16", nb::arg("threads") = 0,
             nb::arg("exact") = false, nb::arg("revision") = "", nb::arg("qjl") = true, nb::arg("preload") = false,
             nb::arg("lock") = false, nb::arg("repack") = true, nb::arg("on_message") = nb::none(),
             nb::arg("cancellation") = nb::none(), kLoadDoc);
}

}  // namespace turboquant::python
