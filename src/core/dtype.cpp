#include "core/dtype.h"

#include <array>
#include <utility>

namespace turboquant {
namespace {

constexpr std::array<std::pair<DType, std::string_view>, 15> kNames{{
    {DType::boolean, "BOOL"},
    {DType::u8, "U8"},
    {DType::i8, "I8"},
    {DType::f8_e4m3, "F8_E4M3"},
    {DType::f8_e5m2, "F8_E5M2"},
    {DType::u16, "U16"},
    {DType::i16, "I16"},
    {DType::f16, "F16"},
    {DType::bf16, "BF16"},
    {DType::u32, "U32"},
    {DType::i32, "I32"},
    {DType::f32, "F32"},
    {DType::u64, "U64"},
    {DType::i64, "I64"},
    {DType::f64, "F64"},
}};

}  // namespace

std::string_view name(DType type) {
  for (const auto& [t, n] : kNames)
    if (t == type) return n;
  return "?";
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const auto& [t, n] : kNames)
    if (n == name) return t;
  return std::nullopt;
}

}  // namespace turboquant
