// The tokenizer files of a Hugging Face folder, built from the metadata of a GGUF file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "io/gguf.h"

namespace turboquant {

/// Token ids that the metadata names; each is inside the vocabulary. end_of_turn and end_of_message are what some chat
/// models end an answer with, other than end.
struct GgufSpecialTokens {
  std::optional<int64_t> begin, end, end_of_turn, end_of_message, unknown, padding;
};
GgufSpecialTokens gguf_special_tokens(const GgufFile& file);

/// tokenizer.json: byte-level BPE ("gpt2") or SentencePiece BPE ("llama"). Nothing if the file has no tokenizer. Throws
/// Error for another kind, an unknown pre-tokenizer (a wrong one would quietly spoil every text) or damaged metadata.
std::optional<std::string> gguf_tokenizer_json(const GgufFile& file);
/// tokenizer_config.json: chat template, begin and end tokens, added tokens.
std::optional<std::string> gguf_tokenizer_config_json(const GgufFile& file);
/// generation_config.json: begin token and every end token.
std::optional<std::string> gguf_generation_config_json(const GgufFile& file);

}  // namespace turboquant
