#include "text/load_tokenizer.h"

#include "turboquant/error.h"

namespace turboquant {

Tokenizer load_tokenizer(const Checkpoint& checkpoint) {
  const std::optional<std::string> json = checkpoint.file("tokenizer.json");
  if (!json) throw Error(checkpoint.path().string() + ": no tokenizer.json; copy it from the original model's folder");
  return Tokenizer(*json, (checkpoint.path() / "tokenizer.json").string());
}

}  // namespace turboquant
