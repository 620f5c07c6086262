// Reads a prompt with a full-precision KV cache, compresses the cache, and goes on with it: the three steps of
// turboquant-mlx.
//
//   compress_kv_cache MODEL [PROMPT]
//
// MODEL is a Hugging Face folder, a folder that `turboquant convert` wrote, or a .gguf file.
#include <turboquant/turboquant.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: compress_kv_cache MODEL [PROMPT]\n");
    return 2;
  }
  std::string prompt = argc > 2 ? argv[2] : "";
  for (int line = 1; prompt.empty() || (argc <= 2 && line <= 60); ++line)
    prompt += "Line " + std::to_string(line) + ": the brown fox jumps over the lazy dog.\n";
  try {
    auto model = turboquant::LanguageModel::load(argv[1]);

    // 1. The prompt, in fp16.
    turboquant::KvCache cache = model.make_cache();
    std::vector<float> logits = model.forward(cache, model.encode(prompt));
    const auto before = static_cast<double>(cache.bytes());

    // 2. Keys and values to 3 bits.
    turboquant::convert_cache_to_turboquant(cache, 3);
    const auto after = static_cast<double>(cache.bytes());

    // 3. Go on.
    std::vector<int32_t> answer;
    for (int i = 0; i < 20; ++i) {
      answer.push_back(static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
      logits = model.forward(cache, {answer.back()});
    }
    std::printf("%s\n%zu tokens remembered; the prompt's in %.2f MB, compressed %.2f MB: %.2f times smaller\n",
                model.decode(answer).c_str(), cache.tokens().size(), before * 1e-6, after * 1e-6, before / after);
  } catch (const turboquant::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
