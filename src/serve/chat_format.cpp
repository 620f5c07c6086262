#include "serve/chat_format.h"

namespace turboquant {

ChatFormat chat_format_of(std::string_view chat_template) {
  const auto has = [&](std::string_view text) { return chat_template.find(text) != std::string_view::npos; };
  ChatFormat format;
  format.knows_tools = has("tools");
  if (has("<|channel|>")) {
    format.tools = ToolStyle::harmony;
    return format;
  }
  format.thinks = has("<think>") || has("</think>");
  if (has("[TOOL_CALLS]")) format.tools = ToolStyle::mistral;
  if (has("<|python_tag|>") || has("ipython")) format.tools = ToolStyle::bare;
  if (has("<tool_call>")) format.tools = ToolStyle::tagged;
  return format;
}

}  // namespace turboquant
