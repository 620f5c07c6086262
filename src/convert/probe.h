// What it costs to compress one matrix, measured at the model's output.
#pragma once

#include <map>
#include <string>

#include "convert/calibration_text.h"
#include "convert/conversion.h"

namespace turboquant {

struct Sensitivities {
  /// KL divergence, in nats a token, between the model with 8-bit weights and the same with one matrix of TCQ16 at 3
  /// bits, for every linear layer and for embedding and head, by module; the experts of a layer's stack
  /// (expert_stack()) are compressed together. Errors of matrices add up to first order, as a KL divergence is
  /// quadratic in a small error, and go with the squared error of a format.
  std::map<std::string, double> losses;
  std::map<std::string, double> gains;  // input_gains()
};

/// Losses are measured on the first 128 tokens of the first sequences of `text`, gains on some thousand tokens of it.
/// Shows a progress bar; Ctrl-C unwinds.
Sensitivities measure_sensitivities(const Checkpoint& source, const ConversionSpec& spec, const TokenSequences& text,
                                    double damping, std::shared_ptr<ThreadPool> pool);

}  // namespace turboquant
