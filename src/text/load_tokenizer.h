// The tokenizer of a model.
#pragma once

#include "io/checkpoint.h"
#include "text/tokenizer.h"

namespace turboquant {

/// tokenizer.json of a checkpoint. Error if there is none.
Tokenizer load_tokenizer(const Checkpoint& checkpoint);

}  // namespace turboquant
