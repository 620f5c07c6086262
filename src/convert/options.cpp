#include "convert/options.h"

#include <fmt/format.h>

namespace turboquant {

bool rotation_enabled(const std::string& rotation) {
  if (rotation == "none") return false;
  if (rotation == "hadamard" || rotation == "blockwise_hadamard") return true;
  throw UsageError("--rotation " + rotation + ": unknown; use hadamard, blockwise_hadamard or none");
}

std::optional<BitsBudget> average_budget(double bits) {
  if (bits == 2 || bits == 3 || bits == 4 || bits == 8) return std::nullopt;
  BitsBudget budget;
  budget.average_bits = bits;
  return budget;
}

std::optional<BitsBudget> size_budget(uint64_t bytes) {
  if (bytes == 0) return std::nullopt;
  BitsBudget budget;
  budget.bytes = bytes;
  return budget;
}

QuantSpec quant_spec(const std::string& format, double bits, int group_size) {
  QuantSpec spec;
  if (format == "tcq16")
    spec.method = QuantSpec::Method::tcq16;
  else if (format == "original" || format == "mlx")
    spec.method = QuantSpec::Method::original;
  else if (format == "affine")
    spec.method = QuantSpec::Method::affine;
  else
    throw UsageError("--format " + format + ": unknown; use tcq16 or mlx");
  if (spec.method == QuantSpec::Method::tcq16) {
    if (!(bits >= 2 && bits <= 8))
      throw UsageError(fmt::format("--bits {}: use 2, 3, 4 or 8, or any average from 2 to 8 such as 3.25", bits));
  } else if (bits != 2 && bits != 3 && bits != 4) {
    throw UsageError(fmt::format("--bits {}: this format has 2, 3 or 4; averages are of --format tcq16", bits));
  }
  if (group_size != 32 && group_size != 64 && group_size != 128)
    throw UsageError("--group-size " + std::to_string(group_size) + ": use 32, 64 or 128");
  spec.bits = bits < 5 ? static_cast<int>(bits) : bits < 8 ? 4 : 8;
  spec.group_size = group_size;
  return spec;
}

void check_head_bits(int bits) {
  if (bits != 4 && bits != 8 && bits != 16)
    throw UsageError("--head-bits " + std::to_string(bits) + ": use 4, 8, or 16 to leave embedding and head");
}

void set_precision(ConversionSpec& spec, std::optional<BitsBudget> budget, const std::string& preset,
                   const std::vector<std::string>& bits_for) {
  if (budget && !preset.empty())
    throw UsageError("--preset " + preset + ": a mix on top of one number of bits; " +
                     (budget->bytes > 0 ? "--target-size" : fmt::format("--bits {}", budget->average_bits)) +
                     " chooses the bits of each matrix itself; leave --preset out");
  spec.budget = std::move(budget);
  spec.bits_for = preset_rules(preset, spec.linear.bits);
  for (const std::string& text : bits_for) spec.bits_for.push_back(parse_bits_rule(text));
}

void check_calibration(const CalibrationOptions& options, QuantSpec::Method method) {
  constexpr int64_t kFewest = 512, kMost = int64_t{1} << 24;
  if (options.text.empty()) return;
  if (method != QuantSpec::Method::tcq16) throw UsageError("--calibrate: of --format tcq16 only");
  if (options.tokens < kFewest || options.tokens > kMost)
    throw UsageError("--calibrate-tokens " + std::to_string(options.tokens) + ": must be from " +
                     std::to_string(kFewest) + " to " + std::to_string(kMost));
  if (!(options.damping >= 0 && options.damping <= 1e3))
    throw UsageError("--calibrate-damping " + std::to_string(options.damping) + ": must be from 0 to 1000");
  if (!(options.drift >= 0 && options.drift <= 1))
    throw UsageError("--calibrate-drift " + std::to_string(options.drift) + ": must be from 0 to 1");
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
  } else if (options.target_bytes > 0) {
    throw UsageError("--target-size: this format has one number of bits for the whole model; use --format tcq16");
  }
  spec.linear.qjl = options.use_qjl;
  spec.python_hash_seed = options.python_hash_seed;
  check_head_bits(options.head_bits);
  spec.head_bits = options.head_bits;
  if (!options.preset.empty() && options.format != "tcq16")
    throw UsageError("--preset " + options.preset + ": this format has one number of bits for the whole model; use " +
                     "--format tcq16");
  set_precision(spec, options.target_bytes > 0 ? size_budget(options.target_bytes) : average_budget(options.bits),
                options.preset, options.bits_for);
  check_calibration(options.calibration, spec.linear.method);
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
