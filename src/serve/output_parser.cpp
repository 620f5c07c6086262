#include "serve/output_parser.h"

#include <algorithm>
#include <utility>

#include "serve/tool_calls.h"

namespace turboquant {
namespace {

// How many bytes at the end of `text` may be the beginning of `tag`.
size_t partial(std::string_view text, std::string_view tag) {
  for (size_t n = std::min(text.size(), tag.size() - 1); n > 0; --n)
    if (text.ends_with(tag.substr(0, n))) return n;
  return 0;
}

class PlainParser final : public OutputParser {
 public:
  OutputPart add(std::string_view text) override { return {std::string(text), "", {}}; }
  OutputPart finish() override { return {}; }
};

class TaggedParser final : public OutputParser {
 public:
  explicit TaggedParser(const TaggedOptions& options)
      : options_(options), state_(options.thinking ? State::reasoning : State::start) {}

  OutputPart add(std::string_view text) override {
    OutputPart out;
    held_ += text;
    while (step(out, false)) {
    }
    return out;
  }

  OutputPart finish() override {
    OutputPart out;
    while (step(out, true)) {
    }
    return out;
  }

 private:
  enum class State { start, reasoning, content, tagged_call, mistral_calls, bare_call, done };
  static constexpr std::string_view kThink = "<think>", kThinkEnd = "</think>", kCall = "<tool_call>",
                                    kCallEnd = "</tool_call>", kMistral = "[TOOL_CALLS]";

  // Goes as far as the held text decides; false: nothing is decided yet, or all is.
  bool step(OutputPart& out, bool last) {
    switch (state_) {
      case State::start:
        return begin(last);
      case State::reasoning:
        return reason(out, last);
      case State::content:
        return write(out, last);
      case State::tagged_call:
        return call(out, last);
      case State::mistral_calls:
      case State::bare_call:
        return last && call_at_end(out);
      case State::done:
        return false;
    }
    return false;
  }

  // What comes first, behind white space: thoughts, a bare call, or text.
  bool begin(bool last) {
    const size_t text = held_.find_first_not_of(" \t\r\n");
    if (text == std::string::npos) {
      if (last) state_ = State::content;
      return last;
    }
    const std::string_view rest = std::string_view(held_).substr(text);
    if (options_.thinks && rest.starts_with(kThink)) {
      held_.erase(0, text + kThink.size());
      state_ = State::reasoning;
      return true;
    }
    if (options_.thinks && !last && kThink.starts_with(rest)) return false;
    state_ = options_.bare_call && rest.starts_with('{') ? State::bare_call : State::content;
    return true;
  }

  // Text up to `end`, or as far as it cannot be the end's beginning; true: the end is there.
  bool take_until(std::string_view end, bool last, std::string& out) {
    const size_t found = held_.find(end);
    const size_t count = found != std::string::npos ? found : held_.size() - (last ? 0 : partial(held_, end));
    out += held_.substr(0, count);
    held_.erase(0, found != std::string::npos ? found + end.size() : count);
    return found != std::string::npos;
  }

  bool reason(OutputPart& out, bool last) {
    if (skip_space_) strip();
    const size_t before = out.reasoning.size();
    const bool ended = take_until(kThinkEnd, last, out.reasoning);
    if (out.reasoning.size() > before) skip_space_ = false;
    if (ended) {
      state_ = State::content;
      skip_space_ = true;
    }
    return ended;
  }

  void strip() { held_.erase(0, std::min(held_.find_first_not_of(" \t\r\n"), held_.size())); }

  bool write(OutputPart& out, bool last) {
    if (skip_space_) strip();
    size_t first = held_.size(), keep = 0;
    std::string_view tag;
    if (options_.tools) {
      for (const std::string_view candidate : {kCall, kMistral}) {
        if (const size_t found = held_.find(candidate); found < first) {
          first = found;
          tag = candidate;
        }
        keep = std::max(keep, partial(held_, candidate));
      }
      // White space in front of a call belongs to it.
      if (tag.empty() && !last) {
        first -= keep;
        while (first > 0 && std::string_view(" \t\r\n").find(held_[first - 1]) != std::string_view::npos) --first;
      }
    }
    std::string_view text = std::string_view(held_).substr(0, first);
    if (!tag.empty()) text = text.substr(0, std::min(text.find_last_not_of(" \t\r\n") + 1, text.size()));
    out.content += text;
    if (!text.empty()) skip_space_ = false;
    held_.erase(0, first + tag.size());
    if (!tag.empty()) state_ = tag == kCall ? State::tagged_call : State::mistral_calls;
    return !tag.empty();
  }

  void give(OutputPart& out, ToolCall call) {
    out.calls.push_back({calls_++, std::move(call.name), std::move(call.arguments)});
  }

  // A call that cannot be read is text.
  bool call(OutputPart& out, bool last) {
    const size_t end = held_.find(kCallEnd);
    if (end == std::string::npos && !last) return false;
    const std::string text = held_.substr(0, end);
    held_.erase(0, end == std::string::npos ? held_.size() : end + kCallEnd.size());
    if (std::optional<ToolCall> found = parse_tagged_call(text)) {
      give(out, std::move(*found));
    } else {
      out.content += std::string(kCall) + text + std::string(end == std::string::npos ? "" : kCallEnd);
    }
    state_ = State::content;
    skip_space_ = true;
    return true;
  }

  bool call_at_end(OutputPart& out) {
    if (state_ == State::bare_call) {
      if (std::optional<ToolCall> found = parse_json_call(held_)) {
        give(out, std::move(*found));
      } else {
        out.content += held_;
      }
    } else {
      std::vector<ToolCall> found = parse_mistral_calls(held_);
      for (ToolCall& entry : found) give(out, std::move(entry));
      if (found.empty()) out.content += std::string(kMistral) + held_;
    }
    held_.clear();
    state_ = State::done;
    return false;
  }

  TaggedOptions options_;
  State state_;
  std::string held_;
  bool skip_space_ = true;  // until the part's first text
  int calls_ = 0;
};

class ForcedParser final : public OutputParser {
 public:
  explicit ForcedParser(std::string name) : name_(std::move(name)), in_arguments_(!name_.empty()) {}

  OutputPart add(std::string_view text) override {
    held_ += text;
    if (!in_arguments_ && !read_name()) return {};
    // The object's own closing brace comes last, and is not the arguments'.
    const size_t keep = whole_ ? std::min<size_t>(1, held_.size()) : 0;
    return give(held_.size() - keep);
  }

  OutputPart finish() override {
    if (!in_arguments_) return {};
    const bool brace = whole_ && held_ == "}";
    return give(brace ? 0 : held_.size());
  }

 private:
  bool read_name() {
    constexpr std::string_view kArguments = "\"arguments\": ";
    const size_t found = held_.find(kArguments);
    if (found == std::string::npos) return false;
    const std::optional<ToolCall> call = parse_json_call(held_.substr(0, found) + R"("arguments": null})");
    if (!call) return false;
    name_ = call->name;
    whole_ = in_arguments_ = true;
    held_.erase(0, found + kArguments.size());
    return true;
  }

  OutputPart give(size_t count) {
    OutputPart out;
    if (count == 0 && begun_) return out;
    out.calls.push_back({0, begun_ ? "" : name_, held_.substr(0, count)});
    begun_ = true;
    held_.erase(0, count);
    return out;
  }

  std::string name_, held_;
  bool in_arguments_, whole_ = false, begun_ = false;
};

}  // namespace

std::unique_ptr<OutputParser> make_plain_parser() { return std::make_unique<PlainParser>(); }

std::unique_ptr<OutputParser> make_tagged_parser(const TaggedOptions& options) {
  return std::make_unique<TaggedParser>(options);
}

std::unique_ptr<OutputParser> make_forced_parser(std::string name) {
  return std::make_unique<ForcedParser>(std::move(name));
}

}  // namespace turboquant
