// /v1/models, /v1/embeddings, /tokenize, /detokenize
#include <fmt/format.h>

#include <bit>

#include "serve/answers.h"
#include "serve/api_error.h"
#include "serve/endpoints.h"

namespace turboquant {
namespace {

constexpr size_t kMostInputs = 256;

Json model_entry(const Service& service) {
  return {{"id", service.options().model_name},
          {"object", "model"},
          {"created", service.created()},
          {"owned_by", "turboquant"},
          {"max_model_len", service.max_context()},
          {"meta",
           {{"n_vocab", service.vocab_size()},
            {"n_ctx_train", service.max_context()},
            {"n_params", service.parameter_count()}}}};
}

std::vector<int32_t> token_ids(const Json& list, const Service& service, const std::string& name) {
  std::vector<int32_t> tokens;
  for (const Json& token : list) {
    const auto id = token.is_number_integer() ? token.get<int64_t>() : -1;
    if (id < 0 || id >= service.vocab_size())
      throw bad_request(fmt::format("{}: token ids are whole numbers, 0 to {}", name, service.vocab_size() - 1), name);
    tokens.push_back(static_cast<int32_t>(id));
  }
  return tokens;
}

// A text, the token ids of one, or an array of either.
std::vector<std::vector<int32_t>> parse_inputs(const Fields& body, const Service& service) {
  const Json* input = body.find("input");
  if (input == nullptr) throw bad_request("input is missing", "input");
  std::vector<std::vector<int32_t>> result;
  const auto add = [&](const Json& value) {
    if (value.is_string())
      result.push_back(service.tokenizer().encode(value.get<std::string>()));
    else if (value.is_array())
      result.push_back(token_ids(value, service, "input"));
    else
      throw bad_request("input is neither text nor token ids", "input");
    service.answer_length(result.back().size(), 1, 1);
  };
  if (!input->is_array() || (!input->empty() && (*input)[0].is_number())) {
    add(*input);
    return result;
  }
  if (input->empty() || input->size() > kMostInputs)
    throw bad_request(fmt::format("input must have 1 to {} entries", kMostInputs), "input");
  for (const Json& entry : *input) add(entry);
  return result;
}

// Little-endian floats, as the official client asks for by default.
std::string base64(const std::vector<float>& values) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  for (const float value : values)
    for (int shift = 0; shift < 32; shift += 8)
      bytes += static_cast<char>(std::bit_cast<uint32_t>(value) >> shift & 0xFF);
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    const size_t count = std::min<size_t>(3, bytes.size() - i);
    for (size_t j = 0; j < 3; ++j) group = group << 8 | (j < count ? static_cast<unsigned char>(bytes[i + j]) : 0U);
    for (size_t j = 0; j < 4; ++j) out += j <= count ? kDigits[group >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

}  // namespace

void answer_models(Service& service, httplib::Response& response) {
  answer_json(response, {{"object", "list"}, {"data", Json::array({model_entry(service)})}});
}

void answer_model(Service& service, const std::string& name, httplib::Response& response) {
  service.check_model(name);
  answer_json(response, model_entry(service));
}

void answer_embeddings(Service& service, const httplib::Request& request, httplib::Response& response) {
  const Json body = parse_body(request.body);
  const Fields fields(body);
  service.check_model(fields.text("model"));
  const std::string format = fields.text("encoding_format").value_or("float");
  if (format != "float" && format != "base64")
    throw bad_request("encoding_format must be float or base64", "encoding_format");
  if (fields.find("dimensions") != nullptr)
    throw bad_request("dimensions is not supported: the model's vectors have one size", "dimensions");
  Json data = Json::array();
  size_t tokens = 0;
  for (const std::vector<int32_t>& input : parse_inputs(fields, service)) {
    const std::vector<float> vector = service.engine().embed(input);
    tokens += input.size();
    data.push_back({{"object", "embedding"},
                    {"index", data.size()},
                    {"embedding", format == "base64" ? Json(base64(vector)) : Json(vector)}});
  }
  answer_json(response, {{"object", "list"},
                         {"data", std::move(data)},
                         {"model", service.options().model_name},
                         {"usage", {{"prompt_tokens", tokens}, {"total_tokens", tokens}}}});
}

void answer_tokenize(Service& service, const httplib::Request& request, httplib::Response& response) {
  const Json body = parse_body(request.body);
  const Fields fields(body);
  const std::optional<std::string> content = fields.text("content");
  if (!content) throw bad_request("content is missing", "content");
  const std::vector<int32_t> tokens =
      service.tokenizer().encode(*content, fields.boolean("add_special").value_or(false));
  Json list = Json::array();
  const bool pieces = fields.boolean("with_pieces").value_or(false);
  for (const int32_t token : tokens) {
    if (pieces)
      list.push_back({{"id", token}, {"piece", printable(service.tokenizer().token_bytes(token))}});
    else
      list.push_back(token);
  }
  answer_json(response, {{"tokens", std::move(list)}});
}

void answer_detokenize(Service& service, const httplib::Request& request, httplib::Response& response) {
  const Json body = parse_body(request.body);
  const Json* tokens = Fields(body).array("tokens");
  if (tokens == nullptr) throw bad_request("tokens is missing", "tokens");
  answer_json(response, {{"content", service.tokenizer().decode(token_ids(*tokens, service, "tokens"), false)}});
}

}  // namespace turboquant
