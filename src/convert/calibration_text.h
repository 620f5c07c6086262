// What a model reads while it is calibrated: text that it writes itself, or text of files.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/thread_pool.h"
#include "io/checkpoint.h"
#include "turboquant/convert.h"

namespace turboquant {

/// Token sequences of equal length, each a text for itself.
using TokenSequences = std::vector<std::vector<int32_t>>;

/// At least `tokens` tokens that the model samples at temperature 1, in sequences of up to 512 that begin with its
/// begin token, every other one followed by a neutral word. The model runs with 8-bit weights in memory. The same seed
/// and model give the same text.
TokenSequences own_text(const Checkpoint& source, int64_t tokens, uint64_t seed,
                        const std::shared_ptr<ThreadPool>& pool);

/// Sequences of up to 512 tokens from a text file or from all files of a folder and its subfolders that are UTF-8 text,
/// spread evenly over their whole length, at most `tokens` in all. Error: nothing to read, less than a sequence.
TokenSequences text_of_files(const Checkpoint& source, const std::string& path, int64_t tokens);

/// One of the two, as the options say. UsageError: fewer tokens than a sequence.
TokenSequences calibration_text(const Checkpoint& source, const CalibrationOptions& options,
                                const std::shared_ptr<ThreadPool>& pool);

}  // namespace turboquant
