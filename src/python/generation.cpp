// Generating text.
#include <fmt/format.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include "python/bindings.h"

namespace turboquant::python {
namespace {

using Prompt = std::variant<std::string, std::vector<int32_t>>;

constexpr const char* kGenerateDoc =
    "Continues a prompt, or answers it where the model has a chat template (raw=True: the prompt as it is; system: "
    "the\n"
    "system message). A prompt of token ids is read as it is. Greedy with temperature=0; with a seed the same text "
    "every\n"
    "time; top_k=0, top_p=1, min_p=0 and repetition_penalty=1 are off. The text ends before the first of the `stop`\n"
    "strings.\n\n"
    "on_text gets the text piece by piece, always whole characters; if it returns False, the text ends there. cache: "
    "go\n"
    "on from what this KvCache shares with the prompt; in the end it remembers the prompt and the answer, but for the\n"
    "last token. on_prompt is called when the cache has read all of the prompt but its last token: what is then saved\n"
    "serves every prompt that begins so. draft=\"ngram\", or draft_model, guesses draft_max tokens at most and checks "
    "them\n"
    "in one step: the same text, faster where the guesses are right. cancellation ends the call from another thread.\n"
    "UsageError: a wrong option, an empty prompt. Error: a prompt longer than max_context.";

/// The Python callback's answer: False ends the text; None, which most return, does not.
bool wants_more(nb::handle on_text, std::string_view piece) {
  const nb::gil_scoped_acquire acquire;
  return !on_text(nb::str(piece.data(), piece.size())).is(nb::handle(Py_False));
}

GenerateResult generate(Model& self, const Prompt& prompt, int max_tokens, double temperature, int top_k, double top_p,
                        double min_p, double repetition_penalty, std::optional<uint64_t> seed,
                        const std::vector<std::string>& stop, bool raw, const std::string& system,
                        const std::string& draft, Model* draft_model, int draft_max, Cache* cache,
                        const std::optional<nb::callable>& on_text, const std::function<void()>& on_prompt,
                        const Cancellation* cancellation) {
  GenerateOptions options;
  options.max_tokens = max_tokens;
  options.temperature = static_cast<float>(temperature);
  options.top_k = top_k;
  options.top_p = static_cast<float>(top_p);
  options.min_p = static_cast<float>(min_p);
  options.repetition_penalty = static_cast<float>(repetition_penalty);
  options.seed = seed;
  options.stop = stop;
  options.raw = raw;
  options.system = system;
  options.draft = draft;
  options.draft_max = draft_max;
  options.on_prompt = on_prompt;
  if (draft_model != nullptr) options.draft_model = &draft_model->model;
  if (cache != nullptr) options.cache = &cache->cache;
  std::function<bool(std::string_view)> text;
  if (on_text) text = [on_text = nb::handle(*on_text)](std::string_view p) { return wants_more(on_text, p); };
  const auto call = [&] {
    return std::visit([&](const auto& given) { return self.model.generate(given, options, text); }, prompt);
  };
  const auto with_draft_model = [&] {
    const std::unique_lock held =
        draft_model != nullptr ? wait_for(*draft_model->lock, cancellation) : std::unique_lock<ModelLock>();
    return call();
  };
  return without_gil(self.lock, with_draft_model, cancellation);
}

void bind_result(nb::module_& module) {
  using Result = GenerateResult;
  nb::class_<Result>(module, "GenerateResult", "A text and how it came about; str() gives the text.")
      .def_ro("text", &Result::text)
      .def_ro("tokens", &Result::tokens, "Generated ids, without the end token.")
      .def_ro("prompt_tokens", &Result::prompt_tokens)
      .def_ro("cached_tokens", &Result::cached_tokens, "Of the prompt, that the cache remembered.")
      .def_ro("prefill_seconds", &Result::prefill_seconds, "From the prompt to the first token.")
      .def_ro("decode_seconds", &Result::decode_seconds, "Of all further tokens.")
      .def_ro("finish_reason", &Result::finish_reason,
              "\"stop\": end token or stop string; \"length\": max_tokens or a full context; \"cancelled\".")
      .def_ro("cache_bytes", &Result::cache_bytes, "Of the KV cache in the end.")
      .def_ro("drafted_tokens", &Result::drafted_tokens, "Tokens that were guessed.")
      .def_ro("accepted_tokens", &Result::accepted_tokens, "Of these what came true.")
      .def("__str__", [](const Result& self) { return self.text; })
      .def("__repr__", [](const Result& self) {
        return fmt::format("<turboquant.GenerateResult: {} tokens, {}>", self.tokens.size(), self.finish_reason);
      });
}

}  // namespace

void bind_generation(nb::module_& module, nb::class_<Model>& model) {
  bind_result(module);
  model.def("generate", &generate, nb::arg("prompt"), nb::kw_only(), nb::arg("max_tokens") = 200,
            nb::arg("temperature") = 0.7, nb::arg("top_k") = 0, nb::arg("top_p") = 1.0, nb::arg("min_p") = 0.0,
            nb::arg("repetition_penalty") = 1.0, nb::arg("seed") = nb::none(),
            nb::arg("stop") = std::vector<std::string>(), nb::arg("raw") = false, nb::arg("system") = "",
            nb::arg("draft") = "", nb::arg("draft_model") = nb::none(), nb::arg("draft_max") = 16,
            nb::arg("cache") = nb::none(), nb::arg("on_text") = nb::none(), nb::arg("on_prompt") = nb::none(),
            nb::arg("cancellation") = nb::none(), kGenerateDoc);
  model.def(
      "stream",
      [](const nb::object& self, const nb::object& prompt, const nb::kwargs& options) {
        return nb::module_::import_("turboquant._stream").attr("stream")(self, prompt, **options);
      },
      nb::arg("prompt"), nb::arg("options"),
      nb::sig("def stream(self, prompt: str | collections.abc.Sequence[int], **options: typing.Any) -> "
              "turboquant._stream.TextStream"),
      "generate() as an iterator over the pieces of the text: turboquant.stream().");
}

}  // namespace turboquant::python
