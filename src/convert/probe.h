// What it costs to compress one matrix, measured at the model's output.
#pragma once

#include <map>
#include <string>

#include "convert/calibration_text.h"
#include "convert/conversion.h"

namespace turboquant {

/// KL divergence, in nats a token, between the model with 8-bit weights and the same with one matrix of TCQ16 at 3
/// bits, for every linear layer of `conversion`, by module; the experts of a layer's stack (expert_stack()) are
/// compressed together. Errors of matrices add up to first order, as a KL divergence is quadratic in a small error, and
/// go with the squared error of a format. Read are the first 128 tokens of the first sequences of `text`. Shows a
/// progress bar; Ctrl-C unwinds.
std::map<std::string, double> measure_sensitivities(const Checkpoint& source, const ConversionSpec& spec,
                                                    const TokenSequences& text, std::shared_ptr<ThreadPool> pool);

}  // namespace turboquant
