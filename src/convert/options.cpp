#include "convert/options.h"

namespace turboquant {

bool rotation_enabled(const std::string& rotation) {
  if (rotation == "none") return false;
  if (rotation == "hadamard" || rotation == "blockwise_hadamard") return true;
  throw UsageError("--rotation " + rotation + ": unknown; use hadamard, blockwise_hadamard or none");
}

QuantSpec quant_spec(const std::string& format, int bits, int group_size) {
  QuantSpec spec;
  if (format == "tcq16")
    spec.method = QuantSpec::Method::tcq16;
  else if (format == "original" || format == "mlx")
    spec.method = QuantSpec::Method::original;
  else if (format == "affine")
    spec.method = QuantSpec::Method::affine;
  else
    throw UsageError("--format " + format + ": unknown; use tcq16 or mlx");
  if (bits < 2 || bits > 4) throw UsageError("--bits " + std::to_string(bits) + ": use 2, 3 or 4");
  if (group_size != 32 && group_size != 64 && group_size != 128)
    throw UsageError("--group-size " + std::to_string(group_size) + ": use 32, 64 or 128");
  spec.bits = bits;
  spec.group_size = group_size;
  return spec;
}

std::vector<BitsRule> bits_rules(const std::string& preset, const std::vector<std::string>& bits_for, int bits) {
  std::vector<BitsRule> rules = preset_rules(preset, bits);
  for (const std::string& text : bits_for) rules.push_back(parse_bits_rule(text));
  return rules;
}

ConversionSpec conversion_spec(const ConvertOptions& options) {
  if (options.format == "affine") throw UsageError("--format affine: unknown; use tcq16 or mlx");
  ConversionSpec spec;
  spec.linear = quant_spec(options.format, options.bits, options.group_size);
  if (spec.linear.method == QuantSpec::Method::tcq16) {
    if (options.use_qjl)
      throw UsageError(
          "--use-qjl: not in tcq16, where one more bit is worth more in the codebook (--bits): it leaves 0.28 of the "
          "error, a QJL bit 0.57; leave it out, or use --format mlx");
    if (options.python_hash_seed != 0)
      throw UsageError("--python-hash-seed: of --format mlx only; signs in tcq16 depend on --rotation-seed alone");
  }
  spec.linear.qjl = options.use_qjl;
  spec.python_hash_seed = options.python_hash_seed;
  if (options.head_bits != 8 && options.head_bits != 16)
    throw UsageError("--head-bits " + std::to_string(options.head_bits) + ": use 8, or 16 to leave embedding and head");
  spec.head_bits = options.head_bits;
  if (!options.preset.empty() && options.format != "tcq16")
    throw UsageError("--preset " + options.preset + ": this format has one number of bits for the whole model; use " +
                     "--format tcq16");
  spec.bits_for = bits_rules(options.preset, options.bits_for, options.bits);
  spec.rotate = rotation_enabled(options.rotation);
  spec.rotation_seed = options.rotation_seed;
  if (options.dtype == "float16")
    spec.dtype = DType::f16;
  else if (options.dtype == "bfloat16")
    spec.dtype = DType::bf16;
  else if (options.dtype == "float32")
    spec.dtype = DType::f32;
  else if (!options.dtype.empty())
    throw UsageError("--dtype " + options.dtype + ": use float16, bfloat16 or float32");
  return spec;
}

}  // namespace turboquant
