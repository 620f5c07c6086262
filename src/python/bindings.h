// The parts of the module, and what they share.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>

#include <memory>
#include <string>
#include <variant>

#include "python/native_call.h"
#include "turboquant/turboquant.h"

namespace turboquant::python {

/// A model as Python has it.
struct Model {
  LanguageModel model;
  std::shared_ptr<ModelLock> lock = std::make_shared<ModelLock>();
};

/// A cache, with its model's lock.
struct Cache {
  KvCache cache;
  std::shared_ptr<ModelLock> lock;
};

/// Options, or the first of them alone.
using KvArgument = std::variant<KvCacheOptions, std::string>;
using CalibrationArgument = std::variant<CalibrationOptions, std::string>;
inline KvCacheOptions options_of(const KvArgument& given) {
  const auto* bits = std::get_if<std::string>(&given);
  return bits != nullptr ? KvCacheOptions{.bits = *bits} : std::get<KvCacheOptions>(given);
}
inline CalibrationOptions options_of(const CalibrationArgument& given) {
  const auto* text = std::get_if<std::string>(&given);
  return text != nullptr ? CalibrationOptions{.text = *text} : std::get<CalibrationOptions>(given);
}

/// Token ids that are read where they lie.
using TokenArray = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

inline std::span<const int32_t> span_of(const TokenArray& tokens) { return {tokens.data(), tokens.size()}; }

void bind_caches(nb::module_& module);
void bind_model(nb::module_& module);
void bind_generation(nb::module_& module, nb::class_<Model>& model);
void bind_convert(nb::module_& module);
void bind_evaluate(nb::module_& module);

}  // namespace turboquant::python
