// Calibrated compression: every matrix is encoded for the inputs that it will see.
//
// Layer by layer, the text runs through the layers before, compressed already, and through the part of this one that is
// compressed already, up to the first matrices that are not. Their inputs' Hessian says which directions of a row
// matter, LDLQ (quant/ldlq.h) encodes the rows for it, and the text goes on. So later matrices see the errors of
// earlier ones, and memory holds one layer. Beside it the text runs through the same layers in 8 bits, which shows how
// far those errors have moved an input (quant/drift.h).
#pragma once

#include <set>

#include "convert/calibration_text.h"
#include "convert/conversion.h"

namespace turboquant {

/// What is known of a source once it was looked at for calibration, and serves every conversion of it.
struct CalibrationData {
  TokenSequences text;
  std::map<std::string, double> losses;  // measure_sensitivities()

  /// Makes what is missing: the text, and where `spec` has a budget the losses, which it gets.
  void prepare(const Checkpoint& source, const CalibrationOptions& options, ConversionSpec& spec,
               std::shared_ptr<ThreadPool> pool);
};

/// Encodes all linear layers that `conversion` compresses in TCQ16 and hands them to `take`, by the names of its
/// outputs; what it does not hand out is left to Conversion::run(). Tensors that are `written` already are not handed
/// out again; layers of which all are, are not encoded again: `written_tensor` gives them back. Shows a progress bar;
/// Ctrl-C unwinds. Returns the names.
std::set<std::string> calibrate(const Checkpoint& source, const Conversion& conversion, const TokenSequences& text,
                                const CalibrationOptions& options, std::shared_ptr<ThreadPool> pool,
                                const Conversion::Sink& take, const std::set<std::string>& written = {},
                                const std::function<Tensor(const std::string&)>& written_tensor = {});

}  // namespace turboquant
