// Spending a budget: from what a checkpoint holds to the units of allocation.h and back.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "convert/allocation.h"
#include "convert/conversion.h"
#include "convert/sensitivity.h"
#include "io/safetensors.h"

namespace turboquant {
namespace {

constexpr std::array kLinearBits = {2, 3, 4, 8};
constexpr std::array kHeadBits = {4, 8};

int64_t layers_of(const Checkpoint& source) {
  int64_t count = 0;
  for (const TensorInfo& tensor : source.tensors()) count = std::max(count, layer_number(tensor.name) + 1);
  return count;
}

bool has_head(const Checkpoint& source) {
  return std::any_of(source.tensors().begin(), source.tensors().end(),
                     [](const TensorInfo& tensor) { return role_of(tensor.name) == Role::head; });
}

uint64_t bytes_of(const std::vector<TensorInfo>& tensors) {
  uint64_t bytes = 0;
  for (const TensorInfo& tensor : tensors) bytes += tensor.bytes();
  return bytes;
}

// "9.01 GB", rounded up: as much is enough.
std::string size_text(uint64_t bytes) {
  const bool large = bytes >= 1'000'000'000;
  if (bytes < 1'000'000) return fmt::format("{} bytes", bytes);
  return fmt::format("{:.2f} {}", std::ceil(static_cast<double>(bytes) * (large ? 1e-7 : 1e-4)) / 100,
                     large ? "GB" : "MB");
}

}  // namespace

ConversionSpec Conversion::spend(const Checkpoint& source, ConversionSpec spec) {
  const BitsBudget& budget = *spec.budget;
  const bool whole = budget.bytes > 0;
  spec.allocation.emplace();
  spec.linear.bits = kLinearBits.front();
  if (whole) spec.head_bits = kHeadBits.front();
  const Conversion least(source, spec);  // what no rule fixes as small as can be

  const int64_t n_layers = layers_of(source);
  const bool tied = !has_head(source);
  std::vector<AllocationUnit> units;
  std::map<std::string, size_t> index;      // of a unit
  std::map<std::string, uint64_t> weights;  // of linear ones
  uint64_t ruled = 0, at_2_bits = 0, at_3_bits = 0;
  for (const Item& item : least.items_) {
    const TensorInfo& tensor = item.sources.front();
    const Role role = role_of(tensor.name);
    if (role == Role::other || !spec.linear.fits(tensor.shape.back())) continue;
    const std::string module(module_of(tensor.name));
    const auto bytes_at = [&](int bits) {
      return bytes_of(tiled_outputs(module, tensor.shape[0], tensor.shape[1], bits));
    };
    if (role == Role::linear) {
      at_2_bits += bytes_at(2);
      at_3_bits += bytes_at(3);
      if (least.precision_.ruled(tensor.name)) ruled += bytes_of(item.outputs);
    }
    if (least.precision_.ruled(tensor.name) || (role != Role::linear && !whole)) continue;
    const std::string name = expert_stack(module);
    const auto [found, fresh] = index.try_emplace(name, units.size());
    if (fresh) {
      AllocationUnit& unit = units.emplace_back();
      unit.name = name;
      const auto measured = budget.losses.find(name);
      const double loss = measured != budget.losses.end() ? measured->second : prior_loss(name, n_layers, tied);
      const auto offer = [&](int bits) { unit.options.push_back({bits, 0, loss_at(loss, bits)}); };
      if (role == Role::linear)
        std::for_each(kLinearBits.begin(), kLinearBits.end(), offer);
      else
        std::for_each(kHeadBits.begin(), kHeadBits.end(), offer);
    }
    for (AllocationOption& option : units[found->second].options) option.bytes += bytes_at(option.bits);
    if (role == Role::linear) weights[name] += static_cast<uint64_t>(tensor.shape.elements());
  }

  const auto& metadata = file_metadata(spec.linear.method);
  const std::string where = source.path().string();
  uint64_t left = 0;  // for the units
  if (whole) {
    const uint64_t smallest = SafetensorsWriter::bytes_on_disk(least.outputs(), metadata);
    if (smallest > budget.bytes)
      throw Error(where + ": --target-size of " + size_text(budget.bytes) + " is too small: the fewest bits" +
                  (spec.bits_for.empty() ? "" : " beside what --bits-for fixes") + " take " + size_text(smallest));
    left = budget.bytes - (smallest - least_bytes(units));
  } else {
    const auto a_bit = static_cast<double>(at_3_bits - at_2_bits);
    const auto all = at_2_bits + static_cast<uint64_t>((budget.average_bits - 2) * a_bit);
    if (const uint64_t needed = ruled + least_bytes(units); needed > all)
      throw Error(where + fmt::format(": --bits {} is too small beside what --bits-for fixes: with 2 bits for all else "
                                      "the average is {:.2f}",
                                      budget.average_bits,
                                      std::ceil(200 + 100 * static_cast<double>(needed - at_2_bits) / a_bit) / 100));
    left = all - ruled;
  }
  if (whole) spec.head_bits = kHeadBits.back();
  for (;;) {
    const std::vector<int> bits = allocate(units, left);
    std::map<int, uint64_t> share;
    for (size_t i = 0; i < units.size(); ++i) {
      (*spec.allocation)[units[i].name] = bits[i];
      if (const auto linear = weights.find(units[i].name); linear != weights.end()) share[bits[i]] += linear->second;
    }
    // What most weights have is what config.json calls the model's bits.
    if (!share.empty())
      spec.linear.bits = std::max_element(share.begin(), share.end(), [](const auto& a, const auto& b) {
                           return a.second < b.second;
                         })->first;
    if (!whole) return spec;
    // Headers are a few bytes longer or shorter with other shapes in them.
    const uint64_t size = SafetensorsWriter::bytes_on_disk(Conversion(source, spec).outputs(), metadata);
    if (size <= budget.bytes) return spec;
    left -= std::min(size - budget.bytes, left - least_bytes(units));
  }
}

}  // namespace turboquant
