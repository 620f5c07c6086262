// From the words of the public options to the specification of a conversion, with errors that list what is allowed.
#pragma once

#include "convert/conversion.h"
#include "turboquant/convert.h"

namespace turboquant {

/// Checks all options. UsageError names the option.
ConversionSpec conversion_spec(const ConvertOptions& options);

/// "tcq16", "original" ("mlx" is the same) or "affine" with these bits and this group size.
QuantSpec quant_spec(const std::string& format, int bits, int group_size);

/// The rules of a preset, and those that the user names after them. UsageError names the option.
std::vector<BitsRule> bits_rules(const std::string& preset, const std::vector<std::string>& bits_for, int bits);

/// True to rotate. UsageError for an unknown name.
bool rotation_enabled(const std::string& rotation);

}  // namespace turboquant
