// What the answers of both APIs for text are made of.
#pragma once

#include <httplib.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "serve/generation.h"
#include "serve/json_body.h"

namespace turboquant {

/// A server-sent event.
std::string sse_event(std::string_view data);
inline constexpr std::string_view kSseDone = "data: [DONE]\n\n";

/// Valid UTF-8 of a token's bytes, which may be part of a character.
std::string printable(const std::string& bytes);

Json usage_of(const Generation& generation);
/// The entry of a token in "logprobs.content" of a chat.
Json chat_logprob(const TokenText& token);

/// An answer that is a stream of events: `write` gets each event of the generation and returns the text that goes out;
/// `last` the text before [DONE].
struct EventStream {
  std::function<std::string(const GenerationEvent&)> write;
  std::function<std::string()> first, last;
};
void answer_stream(httplib::Response& response, Service& service, std::shared_ptr<Generation> generation,
                   EventStream stream);

void answer_json(httplib::Response& response, const Json& body);

/// Whose turn it is: the key, else the address.
std::string client_of(const httplib::Request& request);

}  // namespace turboquant
