// The original's KV cache, bit for bit: codes, scales, and what attention reads.
#include "quant/kv_original.h"

#include "quant/fixture.h"
#include "quant/original.h"

namespace turboquant {
namespace {

TEST(KvOriginal, BitForBit) {
  const Fixture fixture = read_fixture("kv_original.bin");
  for (const int64_t dim : {32, 64, 128})
    for (const int bits : {2, 3, 4})
      for (const KvSide side : {KvSide::keys, KvSide::values}) {
        const std::string d = "d" + std::to_string(dim), what = side == KvSide::keys ? "keys" : "values";
        const std::string at = d + ".b" + std::to_string(bits) + "." + what + "_";
        const Tensor& x = fixture.at(d + "." + what);
        const Rotation rotation = original_kv_rotation(side, dim);
        EXPECT_TRUE(same_bytes(rotation.signs, fixture.at(d + (side == KvSide::keys ? ".k" : ".v") + "_signs"))) << at;
        const int64_t n = x.dim(0), group = original_kv_group(dim);
        Tensor words = Tensor::zeros(DType::u32, {n, original_words(bits, dim)});
        Tensor scales = Tensor::zeros(DType::f16, {n, dim / group}), out = Tensor::zeros(DType::f16, {n, dim});
        original_kv_encode(bits, group, rotation, x.data<float>(), n, words.data<uint32_t>(), scales.data<uint16_t>());
        EXPECT_TRUE(same_bytes(words, fixture.at(at + "packed"))) << at;
        EXPECT_TRUE(same_bytes(scales, fixture.at(at + "scales"))) << at;
        original_kv_decode(bits, group, rotation, words.data<uint32_t>(), scales.data<uint16_t>(), n,
                           out.data<uint16_t>());
        EXPECT_TRUE(same_bytes(out, fixture.at(at + "out"))) << at;
      }
}

TEST(KvOriginal, GroupsAreHalvedUntilTheyDivide) {
  EXPECT_EQ(original_kv_group(64), 64);
  EXPECT_EQ(original_kv_group(96), 32);
  EXPECT_EQ(original_kv_group(80), 16);
  EXPECT_NE(error_of([] { original_kv_group(36); }).find("divide a head_dim of 36"), std::string::npos);
  const Rotation rotation = original_kv_rotation(KvSide::keys, 80);
  std::vector<float> x(80, 1.0F);
  std::vector<uint32_t> words(static_cast<size_t>(original_words(3, 80)));
  std::vector<uint16_t> scales(5), out(80);
  original_kv_encode(3, 16, rotation, x.data(), 1, words.data(), scales.data());
  original_kv_decode(3, 16, rotation, words.data(), scales.data(), 1, out.data());
}

}  // namespace
}  // namespace turboquant
