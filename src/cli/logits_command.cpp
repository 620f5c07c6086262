#include <algorithm>

#include "cli/command.h"
#include "generate/state.h"
#include "io/safetensors.h"

namespace turboquant {
namespace {

std::vector<int32_t> read_ids(const SafetensorsFile& file, const std::string& path, Shape& shape) {
  const TensorInfo* info = file.find("input_ids");
  if (info == nullptr) throw Error(path + ": no tensor 'input_ids'");
  shape = info->shape.rank() == 1 ? Shape{1, info->shape[0]} : info->shape;
  if (shape.rank() != 2 || shape.elements() == 0 || (info->dtype != DType::i32 && info->dtype != DType::i64))
    throw Error(path + ": tensor 'input_ids' must be I32 or I64 [batch, tokens], is " + describe(*info));
  const Tensor tensor = file.tensor("input_ids");
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < tensor.elements(); ++i)
    ids.push_back(info->dtype == DType::i32 ? tensor.data<int32_t>()[i]
                                            : static_cast<int32_t>(tensor.data<int64_t>()[i]));
  return ids;
}

}  // namespace

void add_logits(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("logits", "Compute logits of given tokens, to compare with another implementation");
  struct State {
    std::string model, input, output;
    LoadOptions load;
    int greedy = 0;
  };
  auto state = std::make_shared<State>();
  add_model_option(*command, state->model, state->load.revision);
  command->add_option("--input", state->input, "safetensors file with input_ids [batch, tokens]")->required();
  command->add_option("--output", state->output, "safetensors file to write: logits F32 [batch, tokens, vocabulary]")
      ->required();
  command
      ->add_option("--greedy", state->greedy,
                   "Also write 'greedy': so many most likely tokens after the first sequence")
      ->check(at_least(0));
  command->add_flag("--exact", state->load.exact, "fp32 activations instead of int8, and an fp32 KV cache");
  add_threads_option(*command, state->load.threads);
  add_memory_options(*command, state->load.preload, state->load.lock);
  add_repack_option(*command, state->load.repack);
  command->callback([state] {
    if (state->load.exact) state->load.kv.dtype = "float32";
    Shape shape;
    const std::vector<int32_t> ids = read_ids(SafetensorsFile(state->input), state->input, shape);
    state->load.on_message = message;
    LanguageModel language_model = LanguageModel::load(state->model, state->load);
    Model& model = *language_model.state().model;
    const int64_t batch = shape[0], tokens = shape[1], vocab = model.info().vocab_size;
    std::map<std::string, Tensor> results;
    Tensor logits = Tensor::zeros(DType::f32, {batch, tokens, vocab});
    for (int64_t b = 0; b < batch; ++b) {
      Cache cache = model.make_cache();
      const SequenceTokens sequence{
          &cache, std::span(ids).subspan(static_cast<size_t>(b * tokens), static_cast<size_t>(tokens)), 0};
      const Tensor row = model.forward({&sequence, 1});
      std::copy_n(row.data<float>(), tokens * vocab, logits.data<float>() + b * tokens * vocab);
    }
    results["logits"] = logits;
    if (state->greedy > 0) {
      Tensor greedy = Tensor::zeros(DType::i32, {state->greedy});
      Cache cache = model.make_cache();
      Tensor last = prefill(model, cache, std::span(ids).first(static_cast<size_t>(tokens)));
      for (int i = 0; i < state->greedy; ++i) {
        const float* values = last.data<float>();
        const auto token = static_cast<int32_t>(std::max_element(values, values + vocab) - values);
        greedy.data<int32_t>()[i] = token;
        if (i + 1 < state->greedy) last = prefill(model, cache, {&token, 1});
      }
      results["greedy"] = greedy;
    }
    write_safetensors(state->output, results);
    message("Logits " + to_string(logits.shape()) + " written to " + state->output);
  });
}

}  // namespace turboquant
