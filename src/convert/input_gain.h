// How much calibration gains at each input of a model, known before anything is calibrated.
#pragma once

#include <map>
#include <string>

#include "convert/calibration_text.h"
#include "convert/conversion.h"

namespace turboquant {

/// For every linear layer of `conversion`, by module: what LDLQ leaves of the error of plain compression
/// (HessianFactor::gain), from the inputs that it sees while `precise`, the same model with 8-bit weights, reads
/// `text`. The matrices of a layer's stack of experts (expert_stack()) count as one. Ctrl-C unwinds.
std::map<std::string, double> input_gains(const Checkpoint& precise, const Conversion& conversion,
                                          const TokenSequences& text, double damping,
                                          const std::shared_ptr<ThreadPool>& pool);

}  // namespace turboquant
