// Measuring what compression costs.
#include "turboquant/evaluate.h"

#include <fmt/format.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/vector.h>

#include <filesystem>

#include "python/bindings.h"

namespace turboquant::python {
namespace {

constexpr const char* kEvaluateDoc =
    "Perplexity, and KL divergence to the model as it is, of the model in each format, on the same tokens of each "
    "text\n"
    "file; returns an EvaluateRow each. A converted folder has one row, its own. Everything is quantized in memory.\n\n"
    "bits, target_bytes, formats, group_size, head_bits, bits_for, preset, calibration: as in convert(), of the rows.\n"
    "num_samples windows of seq_len tokens. kv_bits: rows of the model with a compressed KV cache; kv: of these, all "
    "but\n"
    "the bits. protocol: \"original\" scores every next token of a window, \"llama.cpp\" its second half. rows: "
    "whether a\n"
    "text is one of WikiText rows, to be joined as the datasets library gives them: \"auto\", \"yes\" or \"no\".";

std::vector<EvaluateRow> evaluate_model(
    const std::filesystem::path& model, const std::vector<std::filesystem::path>& texts,
    const std::vector<double>& bits, const std::vector<uint64_t>& target_bytes, const std::vector<std::string>& formats,
    int group_size, int head_bits, const std::vector<std::string>& bits_for, const std::string& preset,
    const CalibrationArgument& calibration, bool qjl, int num_samples, int seq_len,
    const std::vector<std::string>& kv_bits, const KvArgument& kv, const std::string& protocol, const std::string& rows,
    bool exact, int threads, const std::string& revision, const std::function<void(const std::string&)>& on_message,
    const Cancellation* cancellation) {
  EvaluateOptions options;
  options.model = model.string();
  for (const std::filesystem::path& text : texts) options.texts.push_back(text.string());
  options.bits = bits;
  options.target_bytes = target_bytes;
  options.formats = formats;
  options.group_size = group_size;
  options.head_bits = head_bits;
  options.bits_for = bits_for;
  options.preset = preset;
  options.calibration = options_of(calibration);
  options.qjl = qjl;
  options.num_samples = num_samples;
  options.seq_len = seq_len;
  options.kv_bits = kv_bits;
  options.kv = options_of(kv);
  options.protocol = protocol;
  options.rows = rows;
  options.exact = exact;
  options.threads = threads;
  options.revision = revision;
  options.on_message = on_message;
  return without_gil([&] { return evaluate(options); }, cancellation);
}

void bind_row(nb::module_& module) {
  using Row = EvaluateRow;
  nb::class_<Row>(module, "EvaluateRow",
                  "A model in one format against the model as it is, on one text. Standard errors (_se) take tokens as "
                  "independent.")
      .def_ro("config", &Row::config, "\"FP16\", \"TCQ16 3-bit\", ...")
      .def_ro("format", &Row::format)
      .def_ro("bits", &Row::bits, "As asked for; of a row of a size the bits a weight of the whole.")
      .def_ro("kv", &Row::kv, "Precision of the KV cache.")
      .def_ro("kv_token_bytes", &Row::kv_token_bytes, "Of the KV cache after a window, a token.")
      .def_ro("text", &Row::text, "Name of the text file.")
      .def_ro("perplexity", &Row::perplexity)
      .def_ro("perplexity_se", &Row::perplexity_se)
      .def_ro("log_change", &Row::log_change, "log(perplexity / that of the model as it is).")
      .def_ro("log_change_se", &Row::log_change_se)
      .def_ro("kl", &Row::kl, "Mean KL(model as it is || row) a token, nats.")
      .def_ro("kl_se", &Row::kl_se)
      .def_ro("kl_p99", &Row::kl_p99, "Its 99% quantile.")
      .def_ro("top1", &Row::top1, "Share of tokens where both have the same most likely next token.")
      .def_ro("top1_se", &Row::top1_se)
      .def_ro("size_bytes", &Row::size_bytes)
      .def_ro("params", &Row::params)
      .def_ro("bits_per_weight", &Row::bits_per_weight)
      .def_ro("bits_per_weight_linear", &Row::bits_per_weight_linear)
      .def_ro("quantize_s", &Row::quantize_s)
      .def_ro("evaluate_s", &Row::evaluate_s)
      .def_ro("tokens_scored", &Row::tokens_scored)
      .def("__repr__", [](const Row& self) {
        return fmt::format("<turboquant.EvaluateRow: {} on {}, perplexity {:.4f}>", self.config, self.text,
                           self.perplexity);
      });
}

}  // namespace

void bind_evaluate(nb::module_& module) {
  bind_row(module);
  const EvaluateOptions defaults;
  module.def("evaluate", &evaluate_model, nb::arg("model"), nb::arg("texts"), nb::kw_only(),
             nb::arg("bits") = defaults.bits, nb::arg("target_bytes") = defaults.target_bytes,
             nb::arg("formats") = defaults.formats, nb::arg("group_size") = 64, nb::arg("head_bits") = 8,
             nb::arg("bits_for") = defaults.bits_for, nb::arg("preset") = "", nb::arg("calibration") = "",
             nb::arg("qjl") = true, nb::arg("num_samples") = 512, nb::arg("seq_len") = 512,
             nb::arg("kv_bits") = defaults.kv_bits, nb::arg("kv") = "fp16", nb::arg("protocol") = "original",
             nb::arg("rows") = "auto", nb::arg("exact") = false, nb::arg("threads") = 0, nb::arg("revision") = "",
             nb::arg("on_message") = nb::none(), nb::arg("cancellation") = nb::none(), kEvaluateDoc);
}

}  // namespace turboquant::python
