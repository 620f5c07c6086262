// KvCacheOptions and KvCache.
#include <fmt/format.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/vector.h>

#include <filesystem>

#include "python/bindings.h"

namespace turboquant::python {
namespace {

void bind_options(nb::module_& module) {
  nb::class_<KvCacheOptions> options(
      module, "KvCacheOptions",
      "How keys and values are kept. Where it is asked for, a string is enough: \"k4v3\" is KvCacheOptions(\"k4v3\").");
  options
      .def(
          "__init__",
          [](KvCacheOptions* self, const std::string& bits, const std::string& dtype, const std::string& format,
             int group_size, int keep_layers,
             int64_t start) { new (self) KvCacheOptions{dtype, bits, format, group_size, keep_layers, start}; },
          nb::arg("bits") = "fp16", nb::kw_only(), nb::arg("dtype") = "float16", nb::arg("format") = "tcq",
          nb::arg("group_size") = 64, nb::arg("keep_layers") = 0, nb::arg("start") = 0)
      .def_rw("bits", &KvCacheOptions::bits,
              "\"k4v3\": keys of 4 bits and values of 3; \"3\": both; of 2, 3, 4 or 8. \"fp16\": not compressed.")
      .def_rw("dtype", &KvCacheOptions::dtype, "Of what is not compressed: \"float16\" or \"float32\".")
      .def_rw("format", &KvCacheOptions::format,
              "Of what is compressed. \"tcq\": trellis codes; the first 16 and the newest 65 to 128 tokens stay exact. "
              "\"original\": as turboquant-mlx does.")
      .def_rw("group_size", &KvCacheOptions::group_size,
              "Values with one scale, of format \"original\": 32, 64 or 128.")
      .def_rw("keep_layers", &KvCacheOptions::keep_layers,
              "So many first and last layers that have a KV cache keep theirs as it is.")
      .def_rw("start", &KvCacheOptions::start,
              "While fewer tokens are read, nothing is compressed; AFTER_PROMPT: until generate() has read its prompt.")
      .def("__repr__", [](const KvCacheOptions& self) {
        return fmt::format("KvCacheOptions('{}', dtype='{}', format='{}', group_size={}, keep_layers={}, start={})",
                           self.bits, self.dtype, self.format, self.group_size, self.keep_layers, self.start);
      });
  options.attr("AFTER_PROMPT") = KvCacheOptions::kAfterPrompt;
}

void bind_cache(nb::module_& module) {
  nb::class_<Cache>(module, "KvCache",
                    "What a model remembers of one text: LanguageModel.make_cache() and load_cache() make it. It keeps "
                    "the model in memory, and is used by one thread at a time.")
      .def_prop_ro(
          "tokens", [](Cache& self) { return without_gil(self.lock, [&] { return self.cache.tokens(); }); },
          "The token ids that are remembered, from the first on, as a list.")
      .def_prop_ro(
          "bytes", [](Cache& self) { return without_gil(self.lock, [&] { return self.cache.bytes(); }); },
          "Bytes that they take up; memory that forks share counts for each of them.")
      .def_prop_ro(
          "bits", [](Cache& self) { return without_gil(self.lock, [&] { return self.cache.bits(); }); },
          "\"fp16\", \"k4v3\".")
      .def(
          "__len__", [](Cache& self) { return without_gil(self.lock, [&] { return self.cache.tokens().size(); }); },
          "How many tokens are remembered.")
      .def(
          "fork",
          [](Cache& self) { return without_gil(self.lock, [&] {
                              return Cache{self.cache.fork(), self.lock};
                            }); },
          "A copy that goes on by itself; memory is shared until one of both writes to it.")
      .def(
          "trim",
          [](Cache& self, int64_t length) { return without_gil(self.lock, [&] { return self.cache.trim(length); }); },
          nb::arg("length"),
          "Forgets tokens from the end until `length` at most are left, and as many as can be: a compressed cache goes "
          "back\n64 tokens at least, a sliding window not always, a state of linear attention only to the start. "
          "Returns how many\ntokens are left.")
      .def(
          "save",
          [](Cache& self, const std::filesystem::path& path) {
            without_gil(self.lock, [&] { self.cache.save(path.string()); });
          },
          nb::arg("path"), "Writes a safetensors file for LanguageModel.load_cache(). Error: it cannot be written.")
      .def("__repr__", [](Cache& self) {
        return without_gil(self.lock, [&] {
          return fmt::format("<turboquant.KvCache: {} tokens, {}, {} bytes>", self.cache.tokens().size(),
                             self.cache.bits(), self.cache.bytes());
        });
      });
}

}  // namespace

void bind_caches(nb::module_& module) {
  bind_options(module);
  bind_cache(module);
  module.def(
      "convert_cache",
      [](Cache& cache, const KvArgument& options) {
        without_gil(cache.lock, [&] { convert_cache(cache.cache, options_of(options)); });
      },
      nb::arg("cache"), nb::arg("options"),
      "Compresses a cache in place, layer by layer; options.start has no effect. Error: it is compressed already.");
  module.def(
      "convert_cache_to_turboquant",
      [](Cache& cache, int tq_bits, int group_size) {
        without_gil(cache.lock, [&] { convert_cache_to_turboquant(cache.cache, tq_bits, group_size); });
      },
      nb::arg("cache"), nb::arg("tq_bits") = 3, nb::arg("group_size") = 64,
      "The second of turboquant-mlx's three steps: read the prompt in fp16, convert, go on. Compresses a cache in "
      "place to\nkeys and values of `tq_bits` bits: 2, 3, 4 or 8. One scale a vector takes the place of groups: "
      "`group_size` must be\n32, 64 or 128, and has no effect. Error: it is compressed already.");
}

}  // namespace turboquant::python
