// Compressing a checkpoint.
#include <fmt/format.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/vector.h>

#include <filesystem>

#include "python/bindings.h"

namespace turboquant::python {
namespace {

constexpr const char* kConvertDoc =
    "Compresses a model (folder, .gguf file, or org/name on the hub) into the folder `output`, which must not exist "
    "and\n"
    "appears whole or not at all.\n\n"
    "format: \"tcq16\", or that of turboquant-mlx: \"mlx\". bits: of linear layers, 2, 3, 4, 8, or in tcq16 any "
    "average\n"
    "from 2 to 8. target_bytes: instead of bits and head_bits, the size of the files at most. head_bits: of embedding "
    "and\n"
    "head, 4, 8 or 16. bits_for: \"GLOB=BITS\" for matrices by name; later ones win. preset: \"dense\" or \"moe\".\n"
    "calibration: \"self\" (the model writes its text; minutes instead of seconds, a quarter of the loss), a text "
    "file,\n"
    "or CalibrationOptions. group_size, use_qjl, python_hash_seed: of turboquant-mlx's format. dtype: of tensors that\n"
    "stay. resume: go on with an interrupted conversion. on_message gets every line worth telling. Error: an "
    "unreadable\n"
    "or damaged source, NaN or Inf weights, output that exists or cannot be written. UsageError: a wrong option.";

ConvertResult convert_model(const std::filesystem::path& model, const std::filesystem::path& output, double bits,
                            const std::string& format, uint64_t target_bytes, int group_size, int head_bits,
                            const std::vector<std::string>& bits_for, const std::string& preset,
                            const CalibrationArgument& calibration, const std::string& rotation, uint64_t rotation_seed,
                            uint32_t python_hash_seed, bool use_qjl, const std::string& dtype, int threads, bool resume,
                            const std::string& revision, const std::function<void(const std::string&)>& on_message,
                            const Cancellation* cancellation) {
  ConvertOptions options;
  options.model = model.string();
  options.output = output.string();
  options.bits = bits;
  options.format = format;
  options.target_bytes = target_bytes;
  options.group_size = group_size;
  options.head_bits = head_bits;
  options.bits_for = bits_for;
  options.preset = preset;
  options.calibration = options_of(calibration);
  options.rotation = rotation;
  options.rotation_seed = rotation_seed;
  options.python_hash_seed = python_hash_seed;
  options.use_qjl = use_qjl;
  options.dtype = dtype;
  options.threads = threads;
  options.resume = resume;
  options.revision = revision;
  options.on_message = on_message;
  return without_gil([&] { return convert(options); }, cancellation);
}

void bind_calibration(nb::module_& module) {
  using Options = CalibrationOptions;
  nb::class_<Options>(module, "CalibrationOptions",
                      "The weights are encoded for the inputs that they see while the model reads a text. Where it is "
                      "asked for, the text is enough.")
      .def(
          "__init__",
          [](Options* self, const std::string& text, int64_t tokens, uint64_t seed, double damping, double drift) {
            new (self) Options{text, tokens, seed, damping, drift};
          },
          nb::arg("text") = "", nb::kw_only(), nb::arg("tokens") = 16384, nb::arg("seed") = 0,
          nb::arg("damping") = 0.01, nb::arg("drift") = 0.5)
      .def_rw("text", &Options::text,
              "\"self\": text that the model writes; or a text file, or a folder of such; empty: none.")
      .def_rw("tokens", &Options::tokens, "Of text, in sequences of 512.")
      .def_rw("seed", &Options::seed, "Of the text that the model writes.")
      .def_rw("damping", &Options::damping, "Added to the diagonal of an input's Hessian, whose mean is 1.")
      .def_rw("drift", &Options::drift,
              "How far weights make up for what earlier layers' errors do to their input: 0 to 1.");
}

}  // namespace

void bind_convert(nb::module_& module) {
  bind_calibration(module);
  using Result = ConvertResult;
  nb::class_<Result>(module, "ConvertResult", "What a conversion made.")
      .def_ro("parameters", &Result::parameters, "Of the source model.")
      .def_ro("bytes", &Result::bytes, "Of all tensors written.")
      .def_ro("bits_per_weight", &Result::bits_per_weight, "Of the whole file.")
      .def_ro("bits_per_weight_linear", &Result::bits_per_weight_linear,
              "Of the compressed linear layers: codes, indices and scales.")
      .def_ro("linear_layers", &Result::linear_layers)
      .def_ro("seconds", &Result::seconds)
      .def("__repr__", [](const Result& self) {
        return fmt::format("<turboquant.ConvertResult: {} linear layers, {:.3f} bits a weight, {} bytes>",
                           self.linear_layers, self.bits_per_weight_linear, self.bytes);
      });
  module.def("convert", &convert_model, nb::arg("model"), nb::arg("output"), nb::kw_only(), nb::arg("bits") = 3.0,
             nb::arg("format") = "tcq16", nb::arg("target_bytes") = 0, nb::arg("group_size") = 64,
             nb::arg("head_bits") = 8, nb::arg("bits_for") = std::vector<std::string>(), nb::arg("preset") = "",
             nb::arg("calibration") = "", nb::arg("rotation") = "hadamard", nb::arg("rotation_seed") = 42,
             nb::arg("python_hash_seed") = 0, nb::arg("use_qjl") = false, nb::arg("dtype") = "", nb::arg("threads") = 0,
             nb::arg("resume") = false, nb::arg("revision") = "", nb::arg("on_message") = nb::none(),
             nb::arg("cancellation") = nb::none(), kConvertDoc);
}

}  // namespace turboquant::python
