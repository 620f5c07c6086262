#include "io/gguf_tokenizer.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "io/files.h"

namespace turboquant {
namespace {

using nlohmann::json;

// What tokenizer.ggml.token_type says of a token (SentencePiece's numbers).
enum class TokenKind : int64_t { normal = 1, unknown, control, user_defined, unused, byte };

// How text is cut before the merges, by tokenizer.ggml.pre. The regular expressions are those of the models' own
// tokenizer.json.
struct PreTokenizer {
  std::string_view name;
  std::string_view tokenizer_class;
  std::string_view split;  // a regular expression, or empty: GPT-2's own
  bool digits;             // every digit alone
  bool nfc;
  bool ignore_merges;  // a piece that is a token as a whole is not merged
  bool add_bos;        // if the file does not say
};

constexpr std::string_view kLlama3Split = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
                                          R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Split = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
                                         R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekkenSplit =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
    R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr std::array<PreTokenizer, 9> kPreTokenizers = {{
    {"gpt-2", "GPT2Tokenizer", "", false, false, false, false},
    {"default", "GPT2Tokenizer", "", false, false, false, false},
    {"smollm", "GPT2Tokenizer", "", true, false, false, false},
    {"starcoder", "GPT2Tokenizer", "", true, false, false, false},
    {"llama-bpe", "PreTrainedTokenizerFast", kLlama3Split, false, false, true, true},
    {"llama3", "PreTrainedTokenizerFast", kLlama3Split, false, false, true, true},
    {"llama-v3", "PreTrainedTokenizerFast", kLlama3Split, false, false, true, true},
    {"qwen2", "Qwen2Tokenizer", kQwen2Split, false, true, false, false},
    {"tekken", "PreTrainedTokenizerFast", kTekkenSplit, false, false, true, true},
}};

struct Vocabulary {
  std::vector<std::string_view> tokens;
  std::vector<int64_t> kinds;
  std::unordered_map<std::string_view, int64_t> ids;

  bool is(size_t id, TokenKind kind) const { return kinds[id] == static_cast<int64_t>(kind); }
};

std::optional<std::string_view> model_of(const GgufFile& file) {
  const auto model = file.text("tokenizer.ggml.model");
  if (!model || *model == "none" || *model == "no_vocab") return std::nullopt;
  if (*model != "gpt2" && *model != "llama")
    file.fail("its tokenizer " + quote(*model) + " is not supported (byte-level BPE and SentencePiece BPE are)");
  return model;
}

Vocabulary vocabulary_of(const GgufFile& file) {
  constexpr size_t kMaxTokenBytes = 8192;  // keeps the search for merges short
  auto tokens = file.texts("tokenizer.ggml.tokens");
  if (!tokens || tokens->empty()) file.fail("has no tokens (metadata 'tokenizer.ggml.tokens')");
  Vocabulary result;
  result.tokens = std::move(*tokens);
  result.kinds = file.integers("tokenizer.ggml.token_type")
                     .value_or(std::vector<int64_t>(result.tokens.size(), static_cast<int64_t>(TokenKind::normal)));
  if (result.kinds.size() != result.tokens.size())
    file.fail("has " + std::to_string(result.tokens.size()) + " tokens but " + std::to_string(result.kinds.size()) +
              " token types");
  result.ids.reserve(result.tokens.size());
  for (size_t i = 0; i < result.tokens.size(); ++i) {
    const std::string_view token = result.tokens[i];
    if (token.size() > kMaxTokenBytes) file.fail("token " + std::to_string(i) + " is longer than 8192 bytes; damaged");
    const auto [other, added] = result.ids.emplace(token, static_cast<int64_t>(i));
    if (!added)
      file.fail("tokens " + std::to_string(other->second) + " and " + std::to_string(i) + " are the same text");
  }
  return result;
}

const PreTokenizer& pre_tokenizer_of(const GgufFile& file) {
  const auto pre = file.text("tokenizer.ggml.pre");
  if (!pre)
    file.fail(
        "does not say how its tokenizer cuts text (metadata 'tokenizer.ggml.pre'); convert the model again with a "
        "newer llama.cpp");
  const auto* found = std::find_if(kPreTokenizers.begin(), kPreTokenizers.end(),
                                   [&pre](const PreTokenizer& known) { return known.name == *pre; });
  if (found == kPreTokenizers.end())
    file.fail("its pre-tokenizer " + quote(*pre) + " is not known; use the model's Hugging Face folder");
  return *found;
}

json byte_level(bool use_regex, bool add_prefix_space = false) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", add_prefix_space}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

json sequence_of(std::string_view items, json list) {
  return {{"type", "Sequence"}, {std::string(items), std::move(list)}};
}

json pre_tokenizer_json(const PreTokenizer& pre) {
  if (pre.digits)
    return sequence_of("pretokenizers",
                       json::array({{{"type", "Digits"}, {"individual_digits", true}}, byte_level(true)}));
  if (pre.split.empty()) return byte_level(true);
  const json split = {
      {"type", "Split"}, {"pattern", {{"Regex", pre.split}}}, {"behavior", "Isolated"}, {"invert", false}};
  return sequence_of("pretokenizers", json::array({split, byte_level(false)}));
}

// Special tokens are left out of decoded text; user-defined ones are only never cut.
json added_tokens(const Vocabulary& vocabulary) {
  json list = json::array();
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const bool special = vocabulary.is(i, TokenKind::control) || vocabulary.is(i, TokenKind::unknown);
    if (!special && !vocabulary.is(i, TokenKind::user_defined)) continue;
    list.push_back({{"id", i},
                    {"content", vocabulary.tokens[i]},
                    {"single_word", false},
                    {"lstrip", false},
                    {"rstrip", false},
                    {"normalized", false},
                    {"special", special}});
  }
  return list;
}

// Begin and end tokens around a text, or null if there are none to add.
json post_processor(const Vocabulary& vocabulary, std::optional<int64_t> begin, std::optional<int64_t> end) {
  if (!begin && !end) return nullptr;
  json tokens = json::object();
  const auto add = [&](json& list, std::optional<int64_t> id, int type) {
    if (!id) return;
    const std::string text(vocabulary.tokens[static_cast<size_t>(*id)]);
    list.push_back({{"SpecialToken", {{"id", text}, {"type_id", type}}}});
    tokens[text] = {{"id", text}, {"ids", {*id}}, {"tokens", {text}}};
  };
  const auto around = [&](json& list, std::string_view name, int type) {
    add(list, begin, type);
    list.push_back({{"Sequence", {{"id", name}, {"type_id", type}}}});
    add(list, end, type);
  };
  json single = json::array(), pair = json::array();
  around(single, "A", 0);
  around(pair, "A", 0);
  around(pair, "B", 1);
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", tokens}};
}

json bpe_model(const Vocabulary& vocabulary, json merges) {
  json vocab = json::object();
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) vocab[std::string(vocabulary.tokens[i])] = i;
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", false},
          {"vocab", std::move(vocab)},
          {"merges", std::move(merges)}};
}

json stored_merges(const GgufFile& file, const Vocabulary& vocabulary) {
  const auto merges = file.texts("tokenizer.ggml.merges");
  if (!merges) file.fail("has no merges (metadata 'tokenizer.ggml.merges')");
  json list = json::array();
  for (size_t i = 0; i < merges->size(); ++i) {
    const std::string_view merge = (*merges)[i];
    const size_t space = merge.find(' ');
    const std::string_view left = merge.substr(0, space);
    const std::string_view right = space == std::string_view::npos ? "" : merge.substr(space + 1);
    if (vocabulary.ids.count(left) == 0 || vocabulary.ids.count(right) == 0 ||
        vocabulary.ids.count(std::string(left).append(right)) == 0)
      file.fail("merge " + std::to_string(i) + " " + quote(merge) + " is not of two tokens that make a third");
    list.push_back({left, right});
  }
  return list;
}

size_t characters(std::string_view utf8) {
  return static_cast<size_t>(std::count_if(utf8.begin(), utf8.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

// SentencePiece merges the neighbours whose joint token has the highest score; the same result comes from a list of
// merges in the order of falling scores. All ways to make a token are listed; among those of equal score the order is
// that of transformers' converter: longer left part first, then longer right part, then ids.
json merges_from_scores(const GgufFile& file, const Vocabulary& vocabulary) {
  const auto scores = file.numbers("tokenizer.ggml.scores");
  if (!scores || scores->size() != vocabulary.tokens.size())
    file.fail("has no score for every token (metadata 'tokenizer.ggml.scores')");
  struct Merge {
    float score;
    size_t left_size, right_size;  // characters
    int64_t whole, left, right;
    auto key() const { return std::tuple(-score, ~left_size, ~right_size, whole, left, right); }
  };
  std::vector<Merge> merges;
  const auto mergeable = [&vocabulary](std::string_view part) {
    const auto found = vocabulary.ids.find(part);
    return found != vocabulary.ids.end() && vocabulary.is(static_cast<size_t>(found->second), TokenKind::normal)
               ? found->second
               : -1;
  };
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    if (!vocabulary.is(i, TokenKind::normal)) continue;
    const std::string_view token = vocabulary.tokens[i];
    for (size_t cut = 1; cut < token.size(); ++cut) {
      if ((token[cut] & 0xc0) == 0x80) continue;  // inside a character
      const int64_t left = mergeable(token.substr(0, cut));
      const int64_t right = left < 0 ? -1 : mergeable(token.substr(cut));
      if (right < 0) continue;
      merges.push_back({(*scores)[i], characters(token.substr(0, cut)), characters(token.substr(cut)),
                        static_cast<int64_t>(i), left, right});
    }
  }
  std::sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) { return a.key() < b.key(); });
  json list = json::array();
  for (const Merge& merge : merges)
    list.push_back(
        {vocabulary.tokens[static_cast<size_t>(merge.left)], vocabulary.tokens[static_cast<size_t>(merge.right)]});
  return list;
}

json byte_level_tokenizer(const GgufFile& file, const Vocabulary& vocabulary) {
  const PreTokenizer& pre = pre_tokenizer_of(file);
  json model = bpe_model(vocabulary, stored_merges(file, vocabulary));
  model["ignore_merges"] = pre.ignore_merges;
  return {{"normalizer", pre.nfc ? json{{"type", "NFC"}} : json(nullptr)},
          {"pre_tokenizer", pre_tokenizer_json(pre)},
          {"decoder", byte_level(true, true)},
          {"model", std::move(model)}};
}

// Spaces are written as U+2581; characters that are no token become the tokens of their bytes.
json sentence_piece_tokenizer(const GgufFile& file, const Vocabulary& vocabulary, std::optional<int64_t> unknown) {
  const std::string mark = "\u2581";
  const bool prefix = file.flag("tokenizer.ggml.add_space_prefix").value_or(true);
  json normalizers = json::array();
  if (prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", mark}});
  normalizers.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", mark}});
  json decoders = json::array({{{"type", "Replace"}, {"pattern", {{"String", mark}}}, {"content", " "}},
                               {{"type", "ByteFallback"}},
                               {{"type", "Fuse"}}});
  if (prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  json model = bpe_model(vocabulary, merges_from_scores(file, vocabulary));
  if (unknown) model["unk_token"] = vocabulary.tokens[static_cast<size_t>(*unknown)];
  model["fuse_unk"] = true;
  model["byte_fallback"] = true;
  return {{"normalizer", sequence_of("normalizers", std::move(normalizers))},
          {"pre_tokenizer", nullptr},
          {"decoder", sequence_of("decoders", std::move(decoders))},
          {"model", std::move(model)}};
}

struct AddedEnds {
  bool begin, end;
};
AddedEnds added_ends(const GgufFile& file, std::string_view model) {
  const bool begin_by_default = model == "llama" || pre_tokenizer_of(file).add_bos;
  return {file.flag("tokenizer.ggml.add_bos_token").value_or(begin_by_default),
          file.flag("tokenizer.ggml.add_eos_token").value_or(false)};
}

std::string dump(const GgufFile& file, const json& value) {
  try {
    return value.dump();
  } catch (const json::exception&) {
    file.fail("a token or the chat template is not valid UTF-8");
  }
}

}  // namespace

GgufSpecialTokens gguf_special_tokens(const GgufFile& file) {
  GgufSpecialTokens result;
  if (!model_of(file)) return result;
  const auto tokens = file.texts("tokenizer.ggml.tokens");
  const auto read = [&](std::string_view name) {
    const std::string key = "tokenizer.ggml." + std::string(name) + "_token_id";
    if (!file.has(key)) return std::optional<int64_t>();
    const auto id = file.integer(key);
    if (!tokens || *id >= static_cast<int64_t>(tokens->size()))
      file.fail("metadata " + quote(key) + ": " + std::to_string(*id) + " is not a token");
    return id;
  };
  result.begin = read("bos");
  result.end = read("eos");
  result.end_of_turn = read("eot");
  result.end_of_message = read("eom");
  result.unknown = read("unknown");
  result.padding = read("padding");
  return result;
}

std::optional<std::string> gguf_tokenizer_json(const GgufFile& file) {
  const auto model = model_of(file);
  if (!model) return std::nullopt;
  const Vocabulary vocabulary = vocabulary_of(file);
  const GgufSpecialTokens special = gguf_special_tokens(file);
  json result = *model == "gpt2" ? byte_level_tokenizer(file, vocabulary)
                                 : sentence_piece_tokenizer(file, vocabulary, special.unknown);
  const AddedEnds ends = added_ends(file, *model);
  result["version"] = "1.0";
  result["truncation"] = nullptr;
  result["padding"] = nullptr;
  result["added_tokens"] = added_tokens(vocabulary);
  result["post_processor"] =
      post_processor(vocabulary, ends.begin ? special.begin : std::nullopt, ends.end ? special.end : std::nullopt);
  return dump(file, result);
}

std::optional<std::string> gguf_tokenizer_config_json(const GgufFile& file) {
  const auto model = model_of(file);
  if (!model) return std::nullopt;
  const Vocabulary vocabulary = vocabulary_of(file);
  const GgufSpecialTokens special = gguf_special_tokens(file);
  const AddedEnds ends = added_ends(file, *model);
  json added = json::object();
  for (json token : added_tokens(vocabulary)) {
    const std::string id = std::to_string(token["id"].get<int64_t>());
    token.erase("id");
    added[id] = std::move(token);
  }
  json result = {{"tokenizer_class", *model == "gpt2" ? pre_tokenizer_of(file).tokenizer_class : "LlamaTokenizer"},
                 {"add_bos_token", ends.begin},
                 {"add_eos_token", ends.end},
                 {"clean_up_tokenization_spaces", false},
                 {"added_tokens_decoder", std::move(added)}};
  if (*model == "gpt2") result["add_prefix_space"] = false;
  const auto set = [&](std::string_view key, std::optional<int64_t> id) {
    if (id) result[std::string(key)] = vocabulary.tokens[static_cast<size_t>(*id)];
  };
  set("bos_token", special.begin);
  set("eos_token", special.end);
  set("unk_token", special.unknown);
  set("pad_token", special.padding ? special.padding : special.end);
  if (const auto chat = file.text("tokenizer.chat_template")) result["chat_template"] = *chat;
  const std::string architecture(file.text("general.architecture").value_or(""));
  if (const auto length = file.integer(architecture + ".context_length")) result["model_max_length"] = *length;
  return dump(file, result);
}

std::optional<std::string> gguf_generation_config_json(const GgufFile& file) {
  const GgufSpecialTokens special = gguf_special_tokens(file);
  json ends = json::array();
  for (const auto id : {special.end, special.end_of_turn, special.end_of_message})
    if (id && std::find(ends.begin(), ends.end(), *id) == ends.end()) ends.push_back(*id);
  if (ends.empty() && !special.begin) return std::nullopt;
  json result = json::object();
  if (special.begin) result["bos_token_id"] = *special.begin;
  if (ends.size() == 1) result["eos_token_id"] = ends[0];
  if (ends.size() > 1) result["eos_token_id"] = ends;
  const auto padding = special.padding ? special.padding : special.end;
  if (padding) result["pad_token_id"] = *padding;
  return dump(file, result);
}

}  // namespace turboquant
