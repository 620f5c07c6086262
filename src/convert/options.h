// From the words of the public options to the specification of a conversion, with errors that list what is allowed.
#pragma once

#include "convert/conversion.h"
#include "turboquant/convert.h"

namespace turboquant {

/// Checks all options. UsageError names the option.
ConversionSpec conversion_spec(const ConvertOptions& options);

/// "tcq16", "original" ("mlx" is the same) or "affine" with these bits and this group size. Of tcq16 any average from 2
/// to 8 will do; if it is none of 2, 3, 4 and 8, what has one number of bits has those below.
QuantSpec quant_spec(const std::string& format, double bits, int group_size);

/// The budget that such an average is; none for 2, 3, 4 and 8, which all matrices can have.
std::optional<BitsBudget> average_budget(double bits);
/// The budget of a whole checkpoint; none for 0 bytes.
std::optional<BitsBudget> size_budget(uint64_t bytes);

/// UsageError: not 4, 8 or 16.
void check_head_bits(int bits);

/// Sets what matrices get: the budget, or, without one, the rules of a preset on spec.linear.bits; and the rules that
/// the user names after them. UsageError names the option; a preset and a budget exclude each other.
void set_precision(ConversionSpec& spec, std::optional<BitsBudget> budget, const std::string& preset,
                   const std::vector<std::string>& bits_for);

/// UsageError names the option. `method`: of the conversion.
void check_calibration(const CalibrationOptions& options, QuantSpec::Method method);

/// True to rotate. UsageError for an unknown name.
bool rotation_enabled(const std::string& rotation);

}  // namespace turboquant
