// The chat page that the server shows at /: one HTML file within the program (page/README.md).
#pragma once

#include <string_view>

namespace turboquant {

/// The file: UTF-8, text/html.
std::string_view chat_page();

/// The value of the header Content-Security-Policy that goes with it: its own script and style run, by their hashes,
/// and nothing is loaded from elsewhere or asked of another server.
std::string_view chat_page_policy();

}  // namespace turboquant
