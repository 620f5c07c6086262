#include <limits>

#include "cli/command.h"
#include "turboquant/convert.h"

namespace turboquant {

void add_convert(CLI::App& app) {
  CLI::App* command = app.add_subcommand("convert", "Compress a model");
  auto options = std::make_shared<ConvertOptions>();
  auto fuse = std::make_shared<bool>(false);
  options->output = "mlx_model";
  add_model_option(*command, options->model, options->revision);
  command->add_option("--mlx-path,--output,-o", options->output, "Folder to make; must not exist")
      ->capture_default_str();
  CLI::Option* bits =
      command
          ->add_option(
              "--bits,-b", options->bits,
              "Bits of linear layers: 2, 3, 4 or 8, the same for all; or of tcq16 any average from 2 to 8, such "
              "as 3.25: each matrix gets 2, 3, 4 or 8, whatever loses least, and all together take no more "
              "than matrices of that many bits would. What --bits-for says stands and counts")
          ->capture_default_str();
  command
      ->add_option("--format", options->format,
                   "tcq16: ours (half the error at the same bits); mlx or original: turboquant-mlx's")
      ->capture_default_str();
  CLI::Option* group =
      command->add_option("--group-size,-g", options->group_size, "Groups of the original's format: 32, 64 or 128")
          ->capture_default_str();
  CLI::Option* head =
      command->add_option("--head-bits", options->head_bits, "Embedding and head in tcq16: 4, 8, or 16 to leave them")
          ->capture_default_str();
  add_target_size_option(*command, options->target_bytes)->excludes(bits)->excludes(head);
  add_precision_options(*command, options->bits_for, options->preset);
  add_calibration_options(*command, options->calibration);
  command->add_option("--rotation", options->rotation, "hadamard, blockwise_hadamard (the same) or none")
      ->capture_default_str();
  command->add_option("--rotation-seed", options->rotation_seed, "Seed of the random signs")->capture_default_str();
  command->add_option("--dtype", options->dtype,
                      "Type of tensors that stay: float16, bfloat16, float32; default: as they are");
  command->add_flag("--resume", options->resume,
                    "Go on with an interrupted conversion to the same folder; Ctrl-C leaves what is done for the next");
  command->add_flag("--fuse-rotations", *fuse, "Accepted for compatibility: rotations are shared already");
  command->add_flag("--use-qjl", options->use_qjl,
                    "Of --format mlx: one more bit a weight for what the codes leave (not for experts)");
  command
      ->add_option("--python-hash-seed", options->python_hash_seed,
                   "Of --format mlx: the signs that turboquant-mlx makes with this PYTHONHASHSEED")
      ->check(CLI::Range(uint32_t{0}, std::numeric_limits<uint32_t>::max()))
      ->capture_default_str();
  add_threads_option(*command, options->threads);
  command->footer(
      "Examples:\n"
      "  turboquant convert --hf-path SmolLM2-135M-Instruct --mlx-path SmolLM2-3bit --bits 3\n"
      "  turboquant convert --hf-path Qwen3-14B --mlx-path Qwen3-7GB --target-size 7GB\n"
      "  turboquant convert --hf-path Qwen3-14B --mlx-path Qwen3-mixed --bits 3.5 --bits-for '*.v_proj=8'");
  command->callback([=] {
    options->on_message = message;
    if (options->format == "tcq16" && group->count() > 0)
      message("--group-size has no effect on tcq16: its groups are 16");
    if (*fuse) message("--fuse-rotations has no effect: layers that read one input share its rotation already");
    convert(*options);
  });
}

}  // namespace turboquant
