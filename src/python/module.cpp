// The module: errors, what belongs to no topic, and its parts.
#include "core/progress.h"
#include "python/bindings.h"

namespace turboquant::python {
namespace {

// The last one that fits a C++ exception is what Python gets.
void bind_errors(nb::module_& module) {
  nb::exception<Error>(module, "Error", PyExc_RuntimeError).doc() =
      "Bad input, an unreadable file, an unsupported model: one line that says what is wrong, where, and what to do.";
  const nb::tuple bases = nb::make_tuple(module.attr("Error"), nb::handle(PyExc_ValueError));
  nb::exception<UsageError>(module, "UsageError", bases).doc() =
      "A wrong option or argument value. Messages name options as the command does: --max-tokens is max_tokens.";
  nb::exception<Interrupted>(module, "Interrupted", module.attr("Error")).doc() =
      "The call was ended by its Cancellation. (Ctrl-C raises KeyboardInterrupt.)";
}

void bind_cancellation(nb::module_& module) {
  nb::class_<Cancellation>(module, "Cancellation",
                           "Ends a long call from another thread: give it to the call as `cancellation`, and call "
                           "cancel(). It raises Interrupted, or, once generate() writes, returns what there is.")
      .def(nb::init<>())
      .def("cancel", &Cancellation::cancel, "Ends the call between two of its steps.")
      .def_prop_ro("cancelled", &Cancellation::cancelled, "Whether cancel() was called.");
}

}  // namespace

NB_MODULE(_native, module) {
  module.doc() = "The part of turboquant that is written in C++. Import turboquant instead.";
  module.attr("__version__") = version();
  bind_errors(module);
  bind_cancellation(module);
  module.def("show_progress", &set_progress_enabled, nb::arg("shown"),
             "Whether long work draws a progress bar on standard error. At first: no.");
  bind_caches(module);
  bind_model(module);
  bind_convert(module);
  bind_evaluate(module);
}

}  // namespace turboquant::python
