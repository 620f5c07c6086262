#include "kernel_cases.h"

#include <algorithm>
#include <array>
#include <memory>

#include "core/random.h"
#include "core/tensor.h"
#include "ops/cpu/kernels.h"
#include "quant/kv.h"
#include "quant/rotation.h"
#include "quant/tcq16.h"
#include "quant/tile.h"

namespace turboquant {
namespace {

Tensor normals(uint64_t seed, int64_t n, DType dtype = DType::f32) {
  return from_float(random_normal(seed, n).data(), {n}, dtype);
}

Tensor floats(int64_t n) { return Tensor::zeros(DType::f32, {n}); }

Tensor random_bytes(int64_t n) {
  Tensor bytes = Tensor::zeros(DType::u8, {n});
  uint32_t state = 1;
  std::generate_n(bytes.data<uint8_t>(), n, [&] { return (state = state * 1664525 + 1013904223) >> 24; });
  return bytes;
}

/// Rows of int8 as the kernel itself makes them of normal numbers.
struct Quantized {
  Quantized(const Kernels& kernels, uint64_t seed, int64_t rows, int64_t width)
      : q(Tensor::zeros(DType::i8, {rows * width})), scale(floats(rows)), sum(Tensor::zeros(DType::i32, {rows})) {
    Tensor x = normals(seed, rows * width);
    for (int64_t r = 0; r < rows; ++r)
      kernels.quantize(x.data<float>() + r * width, width, q.data<int8_t>() + r * width, scale.data<float>() + r,
                       sum.data<int32_t>() + r);
  }

  Tensor q, scale, sum;
};

// ---------------------------------------------------------------- products
constexpr int64_t kCols = 4096, kGroups = kCols / kGroup;
constexpr int64_t kBeyondCaches = int64_t{256} << 20;

/// Tiles of random codes, the next one each time: one, or so many that none is in a cache when its turn comes again.
struct Tiles {
  Tiles(int tile_bits, bool in_cache)
      : bits(tile_bits),
        bytes(kGroups * block_bytes(tile_bits)),
        count(in_cache ? 1 : kBeyondCaches / bytes),
        data(random_bytes(count * bytes)) {}

  const uint8_t* next() {
    at = at + 1 < count ? at + 1 : 0;
    return data.data<uint8_t>() + at * bytes;
  }

  int bits;
  int64_t bytes, count;
  Tensor data;
  int64_t at = 0;
};

// Random bytes are a tile in either order.
KernelRun tile_dot(const Kernels& kernels, bool repacked, int bits, bool in_cache) {
  const auto dot = repacked ? kernels.tile_dot_repacked : kernels.tile_dot;
  const auto tiles = std::make_shared<Tiles>(bits, in_cache);
  const Quantized x(kernels, 1, 1, kCols);
  Tensor out = Tensor::zeros(DType::i32, {kTileRows});
  const auto run = [=]() mutable { dot(bits, tiles->next(), kGroups, x.q.data<int8_t>(), out.data<int32_t>()); };
  return {.bytes = static_cast<double>(tiles->bytes), .multiply_adds = kTileRows * kCols, .run = run};
}

KernelRun tile_panel(const Kernels& kernels, int bits, bool in_cache) {
  const auto tiles = std::make_shared<Tiles>(bits, in_cache);
  Tensor panel = Tensor::zeros(DType::u8, {kTileRows * kCols});
  const auto run = [=, &kernels]() mutable { kernels.tile_panel(bits, tiles->next(), kGroups, panel.data<uint8_t>()); };
  return {.bytes = static_cast<double>(tiles->bytes), .run = run};
}

KernelRun repack(const Kernels& kernels, int bits) {
  const auto tiles = std::make_shared<Tiles>(bits, true);
  Tensor out = Tensor::zeros(DType::u8, {tiles->bytes});
  const auto run = [=, &kernels]() mutable { kernels.repack(bits, tiles->next(), kGroups, out.data<uint8_t>()); };
  return {.bytes = static_cast<double>(tiles->bytes), .run = run};
}

KernelRun panel_dot(const Kernels& kernels) {
  Tensor panel = Tensor::zeros(DType::u8, {2, kTileRows * kCols});
  for (int64_t i = 0; i < kTilePair; ++i)
    kernels.tile_panel(4, Tiles(4, true).next(), kGroups, panel.rows(i, i + 1).data<uint8_t>());
  const Quantized x(kernels, 1, 1, kCols * kTokenPanel);
  Tensor out = Tensor::zeros(DType::i32, {kTokenPanel * kTilePair * kTileRows});
  const auto run = [=, &kernels]() mutable {
    const auto* weights = panel.data<uint8_t>();
    kernels.panel_dot(weights, weights + kTileRows * kCols, kGroups, x.q.data<int8_t>(), kTokenPanel,
                      out.data<int32_t>());
  };
  return {.bytes = static_cast<double>(panel.bytes() + x.q.bytes()),
          .multiply_adds = static_cast<double>(kTilePair * kTileRows * kTokenPanel * kCols),
          .run = run};
}

// A router, or a head that stays as it is.
KernelRun dense_f16(const Kernels& kernels) {
  constexpr int64_t kRows = 32;
  Tensor weight = normals(1, kRows * kCols, DType::f16), x = normals(2, kCols), out = floats(kRows);
  const auto run = [=, &kernels]() mutable {
    kernels.dense_f16(weight.data<std::byte>(), kRows, kCols, x.data<float>(), 1, out.data<float>(), kRows);
  };
  return {.bytes = static_cast<double>(weight.bytes()), .multiply_adds = kRows * kCols, .run = run};
}

// ---------------------------------------------------------------- vectors
KernelRun quantize(const Kernels& kernels) {
  Tensor x = normals(1, kCols), q = Tensor::zeros(DType::i8, {kCols});
  const auto run = [=, &kernels]() mutable {
    float scale = 0;
    int32_t sum = 0;
    kernels.quantize(x.data<float>(), kCols, q.data<int8_t>(), &scale, &sum);
  };
  return {.bytes = static_cast<double>(x.bytes() + q.bytes()), .run = run};
}

KernelRun rms_norm(const Kernels& kernels) {
  Tensor x = normals(1, kCols), weight = normals(2, kCols), out = floats(kCols);
  const auto run = [=, &kernels]() mutable {
    kernels.rms_norm(x.data<float>(), weight.data<float>(), kCols, 1e-5F, out.data<float>());
  };
  return {.bytes = static_cast<double>(3 * x.bytes()), .run = run};
}

KernelRun swiglu(const Kernels& kernels) {
  constexpr int64_t kWidth = 14336;
  Tensor gate = normals(1, kWidth), up = normals(2, kWidth), out = floats(kWidth);
  const auto run = [=, &kernels]() mutable {
    kernels.swiglu(gate.data<float>(), up.data<float>(), kWidth, out.data<float>());
  };
  return {.bytes = static_cast<double>(3 * gate.bytes()), .run = run};
}

KernelRun softmax(const Kernels& kernels) {
  constexpr int64_t kVocabulary = 150000;
  Tensor logits = normals(1, kVocabulary), out = floats(kVocabulary);
  const auto run = [=, &kernels]() mutable { kernels.softmax(logits.data<float>(), kVocabulary, out.data<float>()); };
  return {.bytes = static_cast<double>(2 * logits.bytes()), .run = run};
}

KernelRun rope(const Kernels& kernels) {
  constexpr int64_t kHeads = 32, kHeadDim = 128;
  Tensor x = normals(1, kHeads * kHeadDim), angles = normals(2, kHeadDim), out = floats(kHeads * kHeadDim);
  const auto run = [=, &kernels]() mutable {
    const auto* cos = angles.data<float>();
    kernels.rope(x.data<float>(), cos, cos + kHeadDim / 2, kHeads, kHeadDim, out.data<float>());
  };
  return {.bytes = static_cast<double>(2 * x.bytes()), .run = run};
}

KernelRun rotation(const Kernels& kernels, int64_t width) {
  Tensor x = normals(1, width);
  const int64_t block = hadamard_block(width);
  const auto run = [=, level = kernels.level]() mutable { hadamard_at(level, x.data<float>(), width, block); };
  return {.bytes = static_cast<double>(2 * x.bytes()), .run = run};
}

// ---------------------------------------------------------------- attention
constexpr int64_t kHeadDim = 128;

// A page of the cache, read for four query heads that share it.
KernelRun attend_page_f16(const Kernels& kernels) {
  constexpr int64_t kRows = 4;
  Tensor keys = normals(1, kPageTokens * kHeadDim, DType::f16);
  Tensor values = normals(2, kPageTokens * kHeadDim, DType::f16);
  Tensor q = normals(3, kRows * kHeadDim), maximum = floats(kRows), sum = floats(kRows);
  Tensor out = floats(kRows * kHeadDim);
  const auto run = [=, &kernels]() mutable {
    std::array<const float*, kRows> queries{};
    std::array<float*, kRows> results{};
    std::array<int64_t, kRows> limit{};
    for (size_t r = 0; r < kRows; ++r) {
      queries[r] = q.data<float>() + r * kHeadDim;
      results[r] = out.data<float>() + r * kHeadDim;
      limit[r] = kPageTokens;
    }
    kernels.attend_page_f16({.keys = keys.data<std::byte>(),
                             .values = values.data<std::byte>(),
                             .head_dim = kHeadDim,
                             .scale = 0.088F,
                             .rows = kRows,
                             .q = queries.data(),
                             .limit = limit.data(),
                             .maximum = maximum.data<float>(),
                             .sum = sum.data<float>(),
                             .values_sum = results.data()});
  };
  return {.bytes = static_cast<double>(keys.bytes() + values.bytes()),
          .multiply_adds = static_cast<double>(2 * kRows * kPageTokens * kHeadDim),
          .run = run};
}

// A span of compressed blocks. Rows of a prompt are many: then the codes are decoded into a panel once.
KernelRun attend_blocks(const Kernels& kernels, KvBits bits, int64_t rows) {
  const int64_t bytes = kv_head_bytes(bits, kHeadDim), n = kKvBlockTokens * kHeadDim;
  Tensor blocks = Tensor::zeros(DType::u8, {kSpanBlocks, bytes});
  for (int64_t i = 0; i < kSpanBlocks; ++i) {
    auto* block = blocks.rows(i, i + 1).data<uint8_t>();
    const auto seed = static_cast<uint64_t>(2 * i);
    kv_encode(KvSide::keys, bits.keys, normals(seed + 1, n).data<float>(), kHeadDim, block);
    kv_encode(KvSide::values, bits.values, normals(seed + 2, n).data<float>(), kHeadDim,
              block + kv_side_bytes(bits.keys, kHeadDim));
  }
  const Quantized q(kernels, 99, rows, kHeadDim);
  Tensor results = floats(rows * (kKeyLanes + kHeadDim));
  Tensor panel = rows > kAttendRows ? Tensor::zeros(DType::u8, {2 * kSpanBlocks * n}) : Tensor();
  const auto run = [=, &kernels]() mutable {
    std::array<const uint8_t*, kSpanBlocks> pointers{};
    for (size_t i = 0; i < pointers.size(); ++i) pointers[i] = blocks.data<uint8_t>() + static_cast<int64_t>(i) * bytes;
    AttendBlocks call{bits.keys,
                      bits.values,
                      kHeadDim,
                      kSpanBlocks,
                      pointers.data(),
                      0,
                      rows,
                      q.q.data<int8_t>(),
                      q.scale.data<float>(),
                      q.sum.data<int32_t>(),
                      results.data<float>()};
    if (panel) call.panel = panel.data<uint8_t>();
    kernels.attend_blocks(call);
  };
  return {.bytes = static_cast<double>(blocks.bytes()),
          .multiply_adds = static_cast<double>(2 * rows * kSpanBlocks * n),
          .run = run};
}

// A chunk of the gated delta rule, `tokens` at a time: 1 as text is written, kDeltaChunk as a prompt is read.
KernelRun gated_delta(const Kernels& kernels, int64_t tokens) {
  constexpr int64_t kDim = 128;
  const std::vector<float> unit_weight(kDim, 0.088F);  // 1 / sqrt(kDim): the norm of a key becomes 1
  Tensor x = normals(1, 3 * kDeltaChunk * kDim), units = floats(2 * kDeltaChunk * kDim);
  for (int64_t r = 0; r < 2 * kDeltaChunk; ++r)
    kernels.rms_norm(x.data<float>() + r * kDim, unit_weight.data(), kDim, 1e-6F, units.data<float>() + r * kDim);
  Tensor log_decay = from_float(std::vector<float>(kDeltaChunk, -0.1F).data(), {kDeltaChunk}, DType::f32);
  Tensor beta = from_float(std::vector<float>(kDeltaChunk, 0.5F).data(), {kDeltaChunk}, DType::f32);
  Tensor memory = floats(kDim * kDim), keys = floats(kDim * kDeltaChunk), changes = floats(kDeltaChunk * kDim);
  Tensor decays = floats(kDeltaChunk), scratch = floats(2 * kDeltaChunk * kDeltaChunk);
  Tensor out = floats(kDeltaChunk * kDim);
  const auto run = [=, &kernels]() mutable {
    for (int64_t t = 0; t < kDeltaChunk; t += tokens)
      kernels.gated_delta({.begin = t,
                           .tokens = tokens,
                           .key_dim = kDim,
                           .value_dim = kDim,
                           .q = units.data<float>() + t * kDim,
                           .k = units.data<float>() + (kDeltaChunk + t) * kDim,
                           .qk_stride = kDim,
                           .v = x.data<float>() + (2 * kDeltaChunk + t) * kDim,
                           .v_stride = kDim,
                           .log_decay = log_decay.data<float>() + t,
                           .beta = beta.data<float>() + t,
                           .gate_stride = 1,
                           .memory = memory.data<float>(),
                           .keys = keys.data<float>(),
                           .changes = changes.data<float>(),
                           .decays = decays.data<float>(),
                           .key_weights = scratch.data<float>(),
                           .query_weights = scratch.data<float>() + kDeltaChunk * kDeltaChunk,
                           .out = out.data<float>() + t * kDim,
                           .out_stride = kDim});
  };
  return {.bytes = static_cast<double>(memory.bytes()) * kDeltaChunk / static_cast<double>(tokens),
          .multiply_adds = static_cast<double>(2 * kDeltaChunk * kDim * kDim),
          .run = run};
}

// ---------------------------------------------------------------- encoders
KernelRun encode_weights(const Kernels& kernels, int bits) {
  constexpr int64_t kWidth = 512;
  Tensor w = normals(1, kTileRows * kWidth);
  Tensor blocks = Tensor::zeros(DType::u8, {kWidth / kGroup * block_bytes(bits)});
  Tensor scales = Tensor::zeros(DType::f16, {kTileRows});
  const auto run = [=, level = kernels.level]() mutable {
    tcq16_encode_rows_at(level, bits, w.data<float>(), kTileRows, kWidth, blocks.data<uint8_t>(),
                         scales.data<uint16_t>());
  };
  return {.bytes = static_cast<double>(w.bytes()), .weights = kTileRows * kWidth, .run = run};
}

KernelRun encode_keys(const Kernels& kernels, int bits) {
  Tensor x = normals(1, kKvBlockTokens * kHeadDim);
  Tensor out = Tensor::zeros(DType::u8, {kv_side_bytes(bits, kHeadDim)});
  const auto run = [=, level = kernels.level]() mutable {
    kv_encode_at(level, KvSide::keys, bits, x.data<float>(), kHeadDim, out.data<uint8_t>());
  };
  return {.bytes = static_cast<double>(x.bytes()), .weights = kKvBlockTokens * kHeadDim, .run = run};
}

}  // namespace

std::vector<KernelCase> kernel_cases(CpuLevel level) {
  std::vector<KernelCase> cases;
  const Kernels& k = kernels(level);
  const auto add = [&](const std::string& name, std::function<KernelRun()> prepare, bool in_cache = true) {
    cases.push_back({name + "/" + std::string(turboquant::name(level)), in_cache, std::move(prepare)});
  };
  for (const bool in_cache : {true, false})
    for (const int bits : {2, 3, 4, 8}) {
      const std::string suffix = "/" + std::to_string(bits) + "bit/" + (in_cache ? "cache" : "memory");
      add(
          "tile_dot" + suffix, [=, &k] { return tile_dot(k, false, bits, in_cache); }, in_cache);
      add(
          "tile_panel" + suffix, [=, &k] { return tile_panel(k, bits, in_cache); }, in_cache);
      if (k.repack == nullptr || bits == 8) continue;
      add(
          "tile_dot_repacked" + suffix, [=, &k] { return tile_dot(k, true, bits, in_cache); }, in_cache);
      if (in_cache) add("repack" + suffix, [=, &k] { return repack(k, bits); });
    }
  add("panel_dot", [&k] { return panel_dot(k); });
  add("dense_f16", [&k] { return dense_f16(k); });
  add("quantize", [&k] { return quantize(k); });
  add("rms_norm", [&k] { return rms_norm(k); });
  add("swiglu", [&k] { return swiglu(k); });
  add("softmax/150000", [&k] { return softmax(k); });
  add("rope", [&k] { return rope(k); });
  for (const int64_t width : {4096, 2880})
    add("hadamard/" + std::to_string(width), [=, &k] { return rotation(k, width); });
  add("attend_page_f16", [&k] { return attend_page_f16(k); });
  for (const KvBits bits : {KvBits{3, 3}, KvBits{4, 3}, KvBits{8, 8}})
    add("attend_blocks/" + to_string(bits), [=, &k] { return attend_blocks(k, bits, 4); });
  add("attend_blocks/k4v3/prefill", [&k] { return attend_blocks(k, {4, 3}, 128); });
  add("gated_delta/decode", [&k] { return gated_delta(k, 1); });
  add("gated_delta/prefill", [&k] { return gated_delta(k, 16); });
  for (const int bits : {2, 3, 4})
    add("encoder/" + std::to_string(bits) + "bit", [=, &k] { return encode_weights(k, bits); });
  add("kv_encoder/4bit", [&k] { return encode_keys(k, 4); });
  return cases;
}

std::vector<CpuLevel> levels_up_to(CpuLevel highest) {
  std::vector<CpuLevel> levels = available_cpu_levels();
  std::erase_if(levels, [=](CpuLevel level) { return level > highest; });
  return levels;
}

}  // namespace turboquant
