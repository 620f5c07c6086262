// One message of a chat.
#pragma once

#include <string>

namespace turboquant {

struct ChatMessage {
  std::string role;  ///< "system", "user", "assistant"
  std::string content;
};

}  // namespace turboquant
