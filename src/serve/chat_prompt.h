// From a chat's request to what the engine gets, and to what takes its answer apart.
#pragma once

#include <functional>
#include <memory>

#include "serve/chat_request.h"
#include "serve/generation.h"
#include "serve/output_parser.h"

namespace turboquant {

struct ChatPrompt {
  GenerationRequest generation;
  std::function<std::unique_ptr<OutputParser>()> parser;  // one a choice
};

/// ApiError 400: no chat template, or one that refuses the chat; a prompt that does not fit; a schema that is not
/// understood.
ChatPrompt prepare_chat(Service& service, const ChatRequest& request);

}  // namespace turboquant
