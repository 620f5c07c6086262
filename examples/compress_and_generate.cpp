// Compresses a model to 4 bits and lets it answer a question.
//
//   compress_and_generate MODEL OUTPUT [PROMPT]
//
// MODEL is a Hugging Face folder or a .gguf file; OUTPUT a folder that does not exist yet.
#include <turboquant/turboquant.h>

#include <cstdio>
#include <string>

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: compress_and_generate MODEL OUTPUT [PROMPT]\n");
    return 2;
  }
  try {
    turboquant::ConvertOptions convert;
    convert.model = argv[1];
    convert.output = argv[2];
    convert.bits = 4;
    const turboquant::ConvertResult converted = turboquant::convert(convert);
    std::printf("%lld linear layers at %.3f bits a weight, %.1f MB, %.1f s\n",
                static_cast<long long>(converted.linear_layers), converted.bits_per_weight_linear,
                static_cast<double>(converted.bytes) * 1e-6, converted.seconds);

    auto model = turboquant::LanguageModel::load(convert.output);
    turboquant::GenerateOptions options;
    options.max_tokens = 60;
    options.temperature = 0;
    const std::string prompt = argc > 3 ? argv[3] : "Why is the sky blue?";
    const turboquant::GenerateResult result = model.generate(prompt, options, [](std::string_view text) {
      std::fwrite(text.data(), 1, text.size(), stdout);
      return true;
    });
    std::printf("\n%zu tokens, %.1f tokens a second\n", result.tokens.size(),
                static_cast<double>(result.tokens.size()) / (result.prefill_seconds + result.decode_seconds));
  } catch (const turboquant::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
